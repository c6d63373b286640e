"""What a study file says of tuning: learning rates that every arm tries, on questions that no result uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from eyeswap.recipe import Count, Positive, Seed, Spec


class Tune(Spec):
    """The same budget of trials for every arm."""

    lr: Annotated[tuple[Positive, ...], Field(min_length=2)] = Field(
        description="peak learning rates, each of which every arm tries"
    )
    on: Seed = Field(0, description='seed of the trials, such as "seed 0"; none of the seeds of the study')
    questions: Literal["train-split"] = Field(
        "train-split", description="what trials are judged by: questions of the benchmarks' training splits"
    )
    subset: Count = Field(256, description="questions of each benchmark part")
    steps: Count | None = Field(None, description="optimizer steps of a trial; null takes as many as a run")

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_key(cls, value: Any) -> Any:
        """Take the key ``on`` for what it says: YAML 1.1 reads it as true."""
        if not isinstance(value, Mapping):
            return value
        return {("on" if key is True else key): part for key, part in value.items()}

    @field_validator("on", mode="before")
    @classmethod
    def _seed_from_words(cls, value: Any) -> Any:
        match = re.fullmatch(r"seed (\d+)", value) if isinstance(value, str) else None
        return value if match is None else int(match[1])

    @field_validator("lr")
    @classmethod
    def _no_repeats(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(rates)) < len(rates):
            raise ValueError("a learning rate is listed twice")
        return rates
