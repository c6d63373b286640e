"""The catalog of the study's released VLM checkpoints; downloading and unpacking their archives.

Archives come from the Hub, and interrupted downloads are resumed (`eyeswap.download`). Each is checked against the
sha256 in the authors' manifest before anything in it is read.
"""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from eyeswap.backbones.catalog import WeightsSource
from eyeswap.backbones.fetch import fetch
from eyeswap.errors import CheckpointError, DataError, SpecError, nearest
from eyeswap.files import sha256_of
from eyeswap.unpack import unpack
from eyeswap.yaml_reader import parse_own_yaml

REPOSITORY = "raykuo188/vlm-ssm-vision-encoders-checkpoints"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "checkpoints/latest-checkpoint.pt"


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
        title: display name.
        run_id: the authors' name of the training run.
        backbone: vision backbone, a name or alias in our catalog.
        visual_tokens: published number of visual tokens.
        sha256: digest of the archive.
        scores: published averages.
        notes: caveats for users.
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
        """File name of the archive in the repository."""
        return f"{self.id}.tar"


@functools.cache
def released_models() -> dict[str, ReleasedModel]:
    """Return all released checkpoints by public id."""
    text = (resources.files("eyeswap.vlm.released") / "released.yaml").read_text(encoding="utf-8")
    return {name: ReleasedModel(id=name, **about) for name, about in parse_own_yaml(text).items()}


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
    """Return the verified archive of a released checkpoint, downloaded at first use.

    Raises:
        CheckpointError: if it cannot be downloaded, or its digest is not that of the manifest.
    """
    source = WeightsSource(
        file=model.archive, layout="released", licence="Llama 2 community", hub=REPOSITORY, sha256=model.sha256
    )
    return fetch(source)


def check_archive(path: Path, sha256: str) -> None:
    """Verify a file's digest.

    Raises:
        CheckpointError: if they differ.
    """
    actual = sha256_of(path)
    if actual != sha256:
        raise CheckpointError(f"{path}: has sha256 {actual[:12]}, expected {sha256[:12]}; delete it and download again")


def unpack_archive(archive: Path, folder: Path) -> Path:
    """Extract the two files of a checkpoint from an archive to ``folder``, and nothing else; return the folder.

    Raises:
        CheckpointError: if the archive is incomplete, lacks one of them, or is unsafe.
        EnvironmentProblem: if the disk has no room for the sizes that the archive states.
    """
    try:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            unpack(archive, file, folder / file)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    return folder
