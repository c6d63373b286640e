"""The identity of a trained model: everything that determines it, and nothing that does not.

It tells whether a run may be resumed or evaluated on more benchmarks, or has to be trained again. Benchmarks do not
affect the trained model, so adding some to a study trains nothing.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from eyeswap.backbones import catalog
from eyeswap.backbones.name import BackboneName
from eyeswap.files import canonical_json, digest
from eyeswap.recipe import Recipe
from eyeswap.runs.recorded import Recorded

# Recipe fields that are mere locations, by the digest of the bytes found there; and those that only affect evaluation.
LOCATIONS = {
    "weights.llm": ("recipe.llm", "arm.llm"),
    "weights.backbone_file": ("arm.weights",),
    "data": ("recipe.data.folder", "recipe.data.instruction", "arm.data.folder", "arm.data.instruction"),
}
EVALUATION = ("recipe.test_box_frame",)
SETTINGS = ("llm", "lr", "data", "trainable", "stages")  # keys of the recipe that an arm may set
_OPTIONAL = tuple(f"arm.{key}" for key in ("weights", *SETTINGS))
_MAX_CHANGES = 4  # in a message


@dataclass(frozen=True)
class Change:
    """One field that differs between two models.

    Attributes:
        field: dotted name, such as ``recipe.lr``.
        before: value in the existing run.
        now: value in the study.
    """

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field} was {_short(self.before)} and is {_short(self.now)}"


class ModelIdentity(Recorded):
    """Everything that determines a run's trained model, and nothing else.

    Attributes:
        recipe: everything that the study holds fixed.
        arm: backbone, connector, wiring, tap and geometry of the arm; tap and geometry are None where they are the
            backbone's defaults. What the arm sets of the recipe (`SETTINGS`) is there too. Fields that an older version
            did not record are absent.
        seed: the run's seed.
        data: sha256 of the file of training conversations; None for the embedded data set, which the recipe
            determines, and if the file is unavailable.
        weights: sha256 of the weights of ``backbone`` and ``llm``, and of a custom encoder's file, ``encoder_file``;
            None where there is none or it is unavailable. Of a custom connector's file too, ``connector_file``, and of
            the file of the backbone's weights, ``backbone_file``, if the arm names one.
    """

    recipe: dict[str, Any]
    arm: dict[str, Any]
    seed: int
    data: str | None = None
    weights: dict[str, str | None]

    @property
    def digest(self) -> str:
        """The model digest: the sha256 (hex) of all fields."""
        return digest(self.model_dump(mode="json"))

    def with_backbone(self, weights_sha256: str) -> ModelIdentity:
        """Return a copy with the digest of the backbone's weights as loaded."""
        return self.model_copy(update={"weights": {**self.weights, "backbone": weights_sha256}})

    def setting(self, key: str) -> Any:
        """Return a key of the recipe as it applies to the arm; None if it is not set."""
        return self.arm.get(key, self.recipe.get(key))

    def changes_to(self, now: ModelIdentity) -> list[Change]:
        """Return every field that is known for both and differs; the location of equal bytes is no difference."""
        before, after = dict(_fields(self)), dict(_fields(now))
        for content, locations in LOCATIONS.items():
            if content in before and before[content] == after.get(content):
                for location in locations:
                    before.pop(location, None)
                    after.pop(location, None)
        optional = [key for key in before.keys() ^ after.keys() if key.startswith(("recipe.", *_OPTIONAL))]
        shared = [key for key in after if key in before]
        return [
            Change(key, before.get(key), after.get(key))
            for key in (*shared, *sorted(optional))
            if canonical_json(before.get(key)) != canonical_json(after.get(key))
        ]


def backbone_identity(text: str) -> str:
    """Return a backbone's canonical name: aliases resolved, and a custom encoder's file without its folder.

    Raises:
        SpecError: if the text is not the name of a backbone.
    """
    name = BackboneName.parse(text)
    if name.file is not None:
        return f"{name.file.name}:{name.model}"
    entry = catalog.find(text) if name.kind == "catalog" else None
    return str(name) if entry is None else entry.name


def training_fields(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recorded recipe that affect training, by dotted name.

    Locations of data and weights, and fields that only affect evaluation, are left out.
    """
    locations = {location for locations in LOCATIONS.values() for location in locations}
    return {name: value for name, value in _recipe_fields(recipe) if name not in locations}


def in_words(changes: Sequence[Change]) -> str:
    """Return the changes for a message; only the first few if there are many."""
    more = len(changes) - _MAX_CHANGES
    return "; ".join(map(str, changes[:_MAX_CHANGES])) + (f"; and {more} more" if more > 0 else "")


def _fields(model: ModelIdentity) -> Iterator[tuple[str, Any]]:
    """Yield the known fields by dotted name."""
    yield from _recipe_fields(model.recipe)
    yield from _leaves("arm", model.arm)
    yield "seed", model.seed
    known = {key: value for key, value in model.weights.items() if value is not None}
    yield from _leaves("weights", known)
    if model.data is not None:
        yield "data", model.data


def _recipe_fields(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a recipe that affect training; fields newer than the record have their defaults."""
    with contextlib.suppress(ValidationError):  # written by a newer version; fields it added count as differences
        recipe = Recipe.model_validate(recipe).model_dump(mode="json")
    yield from ((name, value) for name, value in _leaves("recipe", recipe) if name not in EVALUATION)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:
        yield name, value


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64 and value.isalnum():
        return f"sha256 {value[:12]}"
    return textwrap.shorten(canonical_json(value), 60)
