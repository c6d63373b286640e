"""What decides a trained model: when a run may go on, be asked more, or is another one that has to be trained anew.

What is asked of a model decides nothing about it, so adding benchmarks to a study trains nothing.
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

# Fields that say where bytes lie, by the digest of these bytes, and those that decide how a model is asked.
LOCATIONS = {"weights.llm": ("recipe.llm",), "data": ("recipe.data.folder", "recipe.data.instruction")}
ASKING = ("recipe.test_box_frame",)
_MOST_CHANGES = 4  # in a message


@dataclass(frozen=True)
class Change:
    """One field that differs between two models.

    Attributes:
        field: its place, such as ``recipe.lr``.
        before: its value in the run that is there.
        now: its value in the study.
    """

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field} was {_short(self.before)} and is {_short(self.now)}"


class ModelIdentity(Recorded):
    """Everything that decides a run's trained model, and nothing else.

    Attributes:
        recipe: all that the study holds fixed.
        arm: backbone, connector, wiring, tap and geometry as they apply to the arm; tap and geometry are None where
            they are the backbone's own. What an older version did not record is left out.
        seed: of the run.
        data: sha256 of the file of training conversations; None for the embedded data set, which the recipe decides,
            and where the file is not at hand.
        weights: sha256 of the weights of ``backbone`` and ``llm``, and of an own encoder's file, ``encoder_file``; None
            where there is none, or it is not at hand.
    """

    recipe: dict[str, Any]
    arm: dict[str, str | None]
    seed: int
    data: str | None = None
    weights: dict[str, str | None]

    @property
    def digest(self) -> str:
        """The model digest: the sha256 (hex) of all of it."""
        return digest(self.model_dump(mode="json"))

    def with_backbone(self, weights_sha256: str) -> ModelIdentity:
        """Return the same with the weights of the backbone as they were loaded."""
        return self.model_copy(update={"weights": {**self.weights, "backbone": weights_sha256}})

    def changes_to(self, now: ModelIdentity) -> list[Change]:
        """Return every field that is known of both and differs; where equal bytes lie is no difference."""
        before, after = dict(_fields(self)), dict(_fields(now))
        for bytes_of, places in LOCATIONS.items():
            if bytes_of in before and before[bytes_of] == after.get(bytes_of):
                for place in places:
                    before.pop(place, None)
                    after.pop(place, None)
        optional = [key for key in before.keys() ^ after.keys() if key.startswith("recipe.")]
        shared = [key for key in after if key in before]
        return [
            Change(key, before.get(key), after.get(key))
            for key in (*shared, *sorted(optional))
            if canonical_json(before.get(key)) != canonical_json(after.get(key))
        ]


def backbone_identity(text: str) -> str:
    """Return a backbone's name without alias and without the folder of an own encoder's file.

    Raises:
        SpecError: if the text is no name of a backbone.
    """
    name = BackboneName.parse(text)
    if name.file is not None:
        return f"{name.file.name}:{name.model}"
    entry = catalog.find(text) if name.kind == "catalog" else None
    return str(name) if entry is None else entry.name


def training_fields(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recorded recipe that decide what is learnt, by their place.

    Those that say where bytes lie and how a model is asked are left out.
    """
    places = {place for places in LOCATIONS.values() for place in places}
    return {place: value for place, value in _recipe_fields(recipe) if place not in places}


def in_words(changes: Sequence[Change]) -> str:
    """Return changes for a message, the first few of many."""
    more = len(changes) - _MOST_CHANGES
    return "; ".join(map(str, changes[:_MOST_CHANGES])) + (f"; and {more} more" if more > 0 else "")


def _fields(model: ModelIdentity) -> Iterator[tuple[str, Any]]:
    """Yield what is known, by its place."""
    yield from _recipe_fields(model.recipe)
    yield from _leaves("arm", model.arm)
    yield "seed", model.seed
    known = {key: value for key, value in model.weights.items() if value is not None}
    yield from _leaves("weights", known)
    if model.data is not None:
        yield "data", model.data


def _recipe_fields(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a recipe that decide training; those that are newer than the record have their defaults."""
    with contextlib.suppress(ValidationError):  # a newer version wrote it; what it added shows as a difference
        recipe = Recipe.model_validate(recipe).model_dump(mode="json")
    yield from ((place, value) for place, value in _leaves("recipe", recipe) if place not in ASKING)


def _leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{place}.{key}", inner)
    else:
        yield place, value


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64 and value.isalnum():
        return f"sha256 {value[:12]}"
    return textwrap.shorten(canonical_json(value), 60)
