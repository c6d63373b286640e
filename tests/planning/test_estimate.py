"""An estimate says what a study takes, what stops an arm, and what it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eyeswap.data.digits.language import conversation
from eyeswap.data.digits.scene import sample_scene, scene_rng
from eyeswap.errors import SpecError
from eyeswap.planning.estimate import (
    DIGITS_TOKENS_PER_TURN,
    Assumptions,
    estimate_recipe,
    estimate_study,
    workload,
)
from eyeswap.planning.spec import Recipe, Study
from eyeswap.training.collate import encode_conversation

VICUNA = {"data": {"folder": "absent"}, "llm": "lmsys/vicuna-7b-v1.5"}


def study(**changes: Any) -> Study:
    value = {
        "name": "s",
        "question": "?",
        "recipe": VICUNA,
        "arms": {"vit": "digits-vit", "vmamba": "digits-vmamba"},
        "benchmarks": ["pope", "refcoco"],
    }
    return Study.model_validate({**value, **changes})


def test_the_published_run_takes_what_was_derived_from_it() -> None:
    work = workload(Recipe.model_validate(VICUNA), Assumptions(), ("pope", "refcoco"))
    assert (work.conversations, work.steps, work.samples) == (665_298, 5198, 5198 * 128)
    assert work.text_tokens == 300
    assert work.questions == 8_910 + 10_834


def test_steps_end_where_the_recipe_says() -> None:
    recipe = Recipe.model_validate({**VICUNA, "max_steps": 10, "num_epochs": 2})
    assert workload(recipe, Assumptions()).samples == 1280
    assert workload(recipe.model_copy(update={"max_steps": None}), Assumptions()).steps == 2 * 5198


def test_conversations_on_disk_are_counted(tmp_path: Path) -> None:
    rows = [{"id": str(row), "conversations": []} for row in range(37)]
    (tmp_path / "mine.json").write_text(json.dumps(rows), encoding="utf-8")
    data = {"folder": str(tmp_path), "instruction": "mine.json"}
    work = workload(Recipe.model_validate({**VICUNA, "data": data, "global_batch": 8}), Assumptions())
    assert (work.conversations, work.steps) == (37, 5)


def test_data_that_is_not_here_leaves_hours_unknown_and_says_so() -> None:
    found = estimate_study(study(recipe={**VICUNA, "data": {"folder": "x", "instruction": "y.json"}}), Assumptions())
    assert found.arms["vit"].train_gpu_hours is None
    assert found.arms["vit"].flops_per_sample is not None
    assert found.notes == ("recipe.data: x does not exist on this machine; steps and hours are unknown",)


def test_published_counts_stand_in_for_a_folder_that_is_not_here_and_the_plan_says_so() -> None:
    estimate = estimate_study(study(recipe={**VICUNA, "data": {"folder": "nowhere"}}), Assumptions())
    assert estimate.workload.conversations == 665_298
    assert estimate.notes[0] == (
        "recipe.data: nowhere does not exist on this machine; using the published number of conversations"
    )


def test_the_mean_length_of_embedded_conversations_is_as_measured() -> None:
    from eyeswap.shipped import llm_path
    from eyeswap.vlm.model import load_llm

    _, tokenizer, prompt = load_llm(llm_path("digits-llm"))
    lengths = []
    for index in range(60):
        rng = scene_rng(0, "train", index)
        pairs = conversation(sample_scene(rng, "train"), rng, num_questions=4, num_boxes=4)
        messages = [text for pair in pairs for text in pair]
        lengths.append(len(encode_conversation(messages, prompt, tokenizer, 512).input_ids))
    assert sum(lengths) / len(lengths) == pytest.approx(10 * DIGITS_TOKENS_PER_TURN, rel=0.1)


def test_twice_the_utilization_takes_half_the_time() -> None:
    slow, fast = (estimate_study(study(), Assumptions(mfu=mfu)).arms["vit"] for mfu in (0.2, 0.4))
    assert slow.train_gpu_hours == pytest.approx(2 * (fast.train_gpu_hours or 0))
    assert slow.train_flops == fast.train_flops
    assert slow.eval_gpu_hours


def test_an_arm_beyond_the_positions_is_stopped_and_offered_choices() -> None:
    arms = {"big": {"backbone": "digits-vmamba", "geometry": "corner-letterbox-1024"}}
    given: dict[str, Any] = {"arms": arms, "may_differ": ["backbone", "geometry"]}
    (problem,) = estimate_study(study(**given), Assumptions()).problems
    assert problem.startswith("arms.big: 4,096 visual tokens fill the 4,096 positions of lmsys/vicuna-7b-v1.5; choose")
    assert "corner-letterbox-512 gives 1,024" in problem
    allowed = estimate_study(study(**given, beyond_positions="allow"), Assumptions())
    assert not allowed.problems
    assert "as allowed" in allowed.arms["big"].notes[0]


def test_a_canvas_that_leaves_little_room_for_text_is_noted() -> None:
    arms = {"wide": {"backbone": "digits-vmamba", "geometry": "corner-letterbox-800"}}
    found = estimate_study(study(arms=arms, may_differ=["backbone", "geometry"]), Assumptions())
    assert found.arms["wide"].notes == (
        "arms.wide: conversations over 1,596 text tokens exceed the LLM's 4,096 positions",
    )


def test_what_is_called_matched_and_is_not_is_said() -> None:
    arms = {"small": "digits-vmamba", "large": {"backbone": "digits-vmamba", "geometry": "letterbox-256"}}
    given: dict[str, Any] = {"arms": arms, "may_differ": ["backbone", "geometry"]}
    assert not [note for note in estimate_study(study(**given), Assumptions()).notes if "matched" in note]
    notes = estimate_study(study(**given, matched=["tokens"]), Assumptions()).notes
    assert notes[-1] == "matched: tokens differ: small 64; large 256"
    sizes = study(arms={"a": "digits-vmamba", "b": "in1k-vit-s"}, matched=["parameters"])
    assert "matched: parameters differ by more than 10%" in estimate_study(sizes, Assumptions()).notes[-1]


def test_what_cannot_be_known_here_is_said_and_the_rest_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = estimate_study(study(recipe={**VICUNA, "llm": "nobody/nothing-1b"}), Assumptions())
    assert found.llm is None
    assert "nobody/nothing-1b" in found.notes[0]
    footprint = found.arms["vit"].footprint
    assert footprint is not None
    assert footprint.tokens == 64


def test_a_recipe_alone_is_estimated_by_the_number_of_visual_tokens() -> None:
    recipe = Recipe.model_validate(VICUNA)
    few, many = (estimate_recipe(recipe, tokens, Assumptions(mfu=0.6)) for tokens in (196, 1024))
    assert [one.train_gpu_hours for one in (few, many)] == pytest.approx([6.2, 16.8], rel=0.02)
    assert estimate_recipe(recipe, 4096, Assumptions()).problems


@pytest.mark.parametrize("given", [{"mfu": 0.0}, {"mfu": 1.5}, {"num_gpus": 0}, {"text_tokens": 0.0}])
def test_impossible_assumptions_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Assumptions(**given)
