"""The released VLM checkpoints of the study: who they are, where they lie, how an archive becomes a folder.

Archives come from the Hub, resumed where an earlier call ended (`eyeswap.download`); they are checked against
the sha256 of the authors' manifest before anything in them is read.
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
    """Return the checked archive of a released checkpoint, downloading it the first time.

    Raises:
        CheckpointError: if it cannot be got, or is not the file of the manifest.
    """
    source = WeightsSource(
        file=model.archive, layout="released", licence="Llama 2 community", hub=REPOSITORY, sha256=model.sha256
    )
    return fetch(source)


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

    Raises:
        CheckpointError: if it is no whole archive, lacks one of them, or is not to be trusted.
        EnvironmentProblem: if the disk has no room for what the archive says it holds.
    """
    try:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            unpack(archive, file, folder / file)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    return folder
