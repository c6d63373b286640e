"""The released VLM checkpoints of the study: who they are, where they lie, how an archive becomes a folder.

Archives come through the Hub's own client, which resumes and shares a cache with every other tool; they are checked
against the sha256 of the authors' manifest before anything in them is read.
"""

from __future__ import annotations

import functools
import shutil
import tarfile
from importlib import resources
from pathlib import Path, PurePosixPath

import yaml
from pydantic import BaseModel, ConfigDict

from eyeswap.errors import CheckpointError, SpecError, nearest
from eyeswap.files import atomic_path, sha256_of

REPOSITORY = "raykuo188/vlm-ssm-vision-encoders-checkpoints"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "checkpoints/latest-checkpoint.pt"
_TIMEOUT_S = 10.0


class Scores(BaseModel):
    """Published weighted averages, percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vqa: float
    localization: float
    overall: float


class ReleasedModel(BaseModel):
    """One released checkpoint.

    Attributes:
        id: public id, which also names the archive.
        title: a readable name.
        run_id: the authors' name of the training run.
        backbone: vision backbone, a name or alias of our catalog.
        visual_tokens: number of visual tokens as published.
        sha256: digest of the archive.
        scores: published averages.
        notes: what a user must know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    title: str
    run_id: str
    backbone: str
    visual_tokens: int
    sha256: str
    scores: Scores
    notes: str = ""

    @property
    def archive(self) -> str:
        """Name of the archive in the repository."""
        return f"{self.id}.tar"


@functools.cache
def released_models() -> dict[str, ReleasedModel]:
    """Return all released checkpoints by public id."""
    text = (resources.files("eyeswap.vlm") / "released.yaml").read_text(encoding="utf-8")
    return {name: ReleasedModel(id=name, **about) for name, about in yaml.safe_load(text).items()}


def released_model(name: str) -> ReleasedModel:
    """Return a released checkpoint by public id.

    Raises:
        SpecError: if there is none; the message names the nearest.
    """
    models = released_models()
    if name not in models:
        raise SpecError(f"no released model {name!r}. {nearest(name, models)}")
    return models[name]


def fetch_archive(model: ReleasedModel) -> Path:
    """Return the checked archive of a released checkpoint, downloading it the first time; a cut download goes on.

    Raises:
        CheckpointError: if it cannot be got, or is not the file of the manifest.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(REPOSITORY, model.archive)
        if not isinstance(cached, str):
            HfApi().model_info(REPOSITORY, timeout=_TIMEOUT_S)  # the download itself would try for half a minute
            cached = hf_hub_download(REPOSITORY, model.archive)
    except Exception as error:  # the client raises many kinds, most of them for no network
        reason = " ".join(str(error).split())[:150]
        raise CheckpointError(f"{REPOSITORY}/{model.archive}: not to be had from the Hub: {reason}") from None
    check_archive(Path(cached), model.sha256)
    return Path(cached)


def check_archive(path: Path, sha256: str) -> None:
    """Check a file against its digest.

    Raises:
        CheckpointError: if they differ.
    """
    found = sha256_of(path)
    if found != sha256:
        raise CheckpointError(f"{path}: has sha256 {found[:12]}, expected {sha256[:12]}; delete the file, get it again")


def unpack_archive(archive: Path, folder: Path) -> Path:
    """Write the two files of an archive below ``folder`` and return it; whatever else is in the archive stays there.

    The files may lie at the top of the archive or in one folder, as in the published contract.

    Raises:
        CheckpointError: if it is no whole tar archive, or lacks one of them.
    """
    wanted = {file: folder / file for file in (CONFIG_FILE, WEIGHTS_FILE)}
    try:
        with tarfile.open(archive) as content:
            for member in content:
                parts = PurePosixPath(member.name).parts
                parts = tuple(part for part in parts if part != ".")
                name = next((name for name in ("/".join(parts), "/".join(parts[1:])) if name in wanted), None)
                stream = content.extractfile(member) if name is not None and member.isfile() else None
                if name is None or stream is None:
                    continue
                with stream, atomic_path(wanted.pop(name)) as temporary, temporary.open("wb") as target:
                    shutil.copyfileobj(stream, target, 1 << 22)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CheckpointError(f"{archive}: not a whole tar archive: {error}") from None
    if wanted:
        raise CheckpointError(f"{archive}: holds no {next(iter(wanted))}; is this a released checkpoint?")
    return folder
