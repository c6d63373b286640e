"""Names from other projects lead to keys and values that exist."""

from __future__ import annotations

from eyeswap.connector_name import MLPS
from eyeswap.planning.other_names import FIXED, KEYS, VALUES
from eyeswap.planning.spec import Arm, Study
from eyeswap.recipe import DigitsData, Execution, FolderData, Recipe

MODELS = {"": Study, "recipe": Recipe, "execution": Execution, "arms.<name>": Arm, "recipe.data": FolderData}


def test_every_key_that_is_named_exists() -> None:
    for name, here in KEYS.items():
        place, _, key = here.rpartition(".")
        assert key in MODELS[place].model_fields, f"{name}: {here}"


def test_no_name_of_ours_is_taken_for_anothers() -> None:
    ours = {key for model in (*MODELS.values(), DigitsData) for key in model.model_fields}
    assert not ours & (set(KEYS) | set(FIXED))


def test_every_value_that_is_named_exists() -> None:
    assert set(VALUES.values()) <= {*MLPS, "bf16", "fp32", "cosine"}
