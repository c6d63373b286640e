"""Every finding of the audit appears on a record that has the flaw, and on none that has not."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eyeswap.audit import backbones as audit_backbones
from eyeswap.audit import canvas as audit_canvas
from eyeswap.audit import design as audit_design
from eyeswap.audit.audit import CHECKS
from eyeswap.audit.design import prompt_signs
from eyeswap.audit.finding import Finding, merged
from eyeswap.runs.record import RunRecord

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"
USE = {
    "num_images": 9, "num_measured": 9, "padding": 0.25, "cut": 0.0, "scale": 0.35, "own_scale": 0.35, "stretch": 1.0,
}  # fmt: skip
CLEAN: dict[str, Any] = {
    "arm": "vmamba",
    "seed": 7,
    "recipe": {"max_text_tokens": 512},
    "backbone": {
        "name": "digits-vmamba",
        "family": "vmamba",
        "weights_sha256": "w",
        "embed_dim": 384,
        "num_parameters": 31_000_000,
        "token_grid": [14, 14],
        "tap": [3, -1],
        "frozen_mode": "eval",
        "geometry": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "fill": [123, 116, 103]},
    },
    "recipe_digest": "r",
    "llm": {},
    "connector": {},
    "train_prompt": "USER: {expression} ASSISTANT:",
    "test_prompt": "USER: {expression} ASSISTANT:",
    "train_box_frame": "original",
    "test_box_frame": "original",
    "observed": {
        "matched": ["tokens"],
        "llm_positions": 4096,
        "tap_norm": "trained",
        "parameters_run": 31_000_000,
        "canvas": {"training": USE, "ocid-ref": USE},
    },
}


def planted(**changes: Any) -> dict[str, Any]:
    """Return the clean record with values set at dotted places, dots written as double underscores."""
    record = copy.deepcopy(CLEAN)
    for place, value in changes.items():
        *way, last = place.split("__")
        target = record
        for key in way:
            target = target[key]
        target[last] = value
    return record


def findings(*records: dict[str, Any]) -> list[Finding]:
    named = {f"{record['arm']}/seed-{record['seed']}": RunRecord.model_validate(record) for record in records}
    assert len(named) == len(records)
    return merged(finding for check in CHECKS for finding in check(named))


OTHER_ARM, OTHER_SEED = planted(arm="vit"), planted(arm="maxvit", seed=8)


def test_clean_runs_have_no_finding() -> None:
    assert findings(CLEAN, OTHER_ARM, OTHER_SEED) == []


FLAWS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "drop path active": ("train-mode", "warning", {"backbone__frozen_mode": "train"}, "drop path 0.1 was active"),
    "no weights": ("unknown-weights", "warning", {"backbone__weights_sha256": None}, "may be random"),
    "convolutions alone": (
        "early-tap",
        "warning",
        {"backbone__family": "mambavision", "backbone__name": "digits-mambavision", "backbone__tap": [1, "after"]},
        "digits-mambavision is tapped at level 1, after its downsampling, before its first mixer (level 2)",
    ),
    "untrained norm": ("tap-norm", "warning", {"observed__tap_norm": "untrained"}, "never trained"),
    "no norm": ("tap-norm", "note", {"observed__tap_norm": "none"}, "no norm follows the tap"),
    "colours of others": (
        "normalisation",
        "warning",
        {"backbone__name": "in1k-384px-maxvit-t-s3"},
        "the weights of in1k-384px-maxvit-t-s3 were trained with mean 0.5/0.5/0.5",
    ),
    "idle layers": ("idle-parameters", "warning", {"observed__parameters_run": 600}, "vmamba 600 of 31,000,000"),
    "empty corner": (
        "padding",
        "warning",
        {"observed__canvas": {"training": USE, "ocid-ref": USE | {"padding": 0.71}}},
        "in ocid-ref, 71% of the canvas is padding",
    ),
    "never enlarged": (
        "object-scale",
        "warning",
        {"observed__canvas": {"training": USE | {"scale": 1.0, "own_scale": 1.6667}}},
        "in training, objects appear at 0.60x the scale that the pretrained weights saw",
    ),
    "two scales": (
        "object-scale",
        "note",
        {"observed__canvas": {"training": USE, "ocid-ref": USE | {"scale": 0.7, "own_scale": 0.7}}},
        "an image pixel is 0.35 canvas pixels in training and 0.70 in ocid-ref",
    ),
    "squash": (
        "stretch",
        "warning",
        {"observed__canvas": {"training": USE | {"stretch": 1.333}}},
        "stretched 1.33x along one axis",
    ),
    "crop": (
        "crop-loss",
        "warning",
        {"observed__canvas": {"training": USE | {"cut": 0.184}, "ocid-ref": USE | {"cut": 0.25}}},
        "in ocid-ref, 25.0% of the image is outside the canvas (also affected: training)",
    ),
    "no position left": (
        "beyond-positions",
        "warning",
        {"backbone__token_grid": [50, 84], "observed__matched": []},
        "visual tokens take up all 4,096 positions of the LLM: vmamba 4,200",
    ),
    "texts too long": (
        "beyond-positions",
        "note",
        {"observed__llm_positions": 600},
        "visual tokens and the longest texts exceed the 600 positions",
    ),
    "quotes": (
        "prompt-mismatch",
        "warning",
        {"train_prompt": "USER: the cat. ASSISTANT:", "test_prompt": 'USER: "the cat" ASSISTANT:'},
        "training and test prompts differ in quotes and full stop",
    ),
    "frames": (
        "box-frame-mismatch",
        "warning",
        {"test_box_frame": "canvas"},
        "trained as fractions of the original image but are scored as fractions of the canvas",
    ),
    "matched in name": (
        "unequal-tokens",
        "warning",
        {"backbone__token_grid": [7, 7]},
        "arms declared matched in tokens pass unequal numbers of visual tokens to the LLM",
    ),
}  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_found_in_the_run_that_has_it(flaw: str) -> None:
    key, severity, changes, words = FLAWS[flaw]
    found = findings(planted(**changes), OTHER_ARM, OTHER_SEED)
    assert {one.key for one in found} <= {key, "unequal-tokens"}
    (finding,) = [one for one in found if (one.key, one.severity) == (key, severity)]
    assert words in finding.message
    assert finding.runs[0] == "vmamba/seed-7"
    assert finding.evidence


def test_unequal_tokens_are_a_note_where_nothing_is_called_matched() -> None:
    arms = [
        planted(arm=arm, seed=7 + n, observed__matched=[], backbone__token_grid=[n, 7]) for n, arm in enumerate("ab", 3)
    ]
    (finding,) = findings(*arms)
    assert (finding.key, finding.severity) == ("unequal-tokens", "note")
    assert finding.evidence == {"tokens": {"a": 21, "b": 28}, "called_matched": False}


@pytest.mark.parametrize(("matched", "severity"), [(["parameters"], "warning"), ([], "note")])
def test_sizes_within_ten_percent_are_equal(matched: list[str], severity: str) -> None:
    def pair(size: int) -> list[Finding]:
        run = {"backbone__num_parameters": size, "observed__parameters_run": size, "observed__matched": matched}
        return findings(planted(**run), planted(arm="vit", seed=8, observed__matched=matched))

    assert pair(34_100_000) == []
    (finding,) = pair(34_100_001)
    assert (finding.key, finding.severity) == ("unequal-sizes", severity)


def test_what_the_published_study_counts_is_told() -> None:
    (finding,) = findings(planted(backbone__name="vmamba-small-s2l15"), OTHER_ARM, OTHER_SEED)
    assert (finding.key, finding.severity) == ("idle-parameters", "note")
    assert "counts 50M parameters for vmamba-small-s2l15, of which 31.0M are used" in finding.message


BOX_GEOMETRY = {"strategy": "corner-letterbox", "canvas": [512, 512]}


def boxes(arm: str, seed: int, test: str, backbone: str, **geometry: Any) -> dict[str, Any]:
    """A run that learnt boxes of the padded square."""
    own = {"geometry": BOX_GEOMETRY | geometry, "name": backbone}
    frames = {"train_box_frame": "padded-square", "test_box_frame": test}
    return planted(arm=arm, seed=seed, **frames, backbone=CLEAN["backbone"] | own)


def frame_findings(*records: dict[str, Any]) -> list[Finding]:
    return [one for one in findings(*records) if one.key.startswith("box-frame")]


def test_frames_are_compared_by_what_they_are_and_not_by_their_names() -> None:
    seen = {"strategy": "letterbox"}  # whose canvas is the padded square, like the study's frame of that name
    assert not frame_findings(*(boxes("ab"[n], 7 + n, "canvas", "own.py:build", **seen) for n in (0, 1)))
    assert not frame_findings(*(boxes("ab"[n], 7 + n, "study", "own.py:build", **seen) for n in (0, 1)))


def test_a_setting_that_gives_each_arm_a_frame_of_its_own_is_named() -> None:
    square = boxes("square", 7, "study", "vmamba-tiny-s1l8-maskrcnn-1x")  # not the canvas it has by itself
    native = boxes("native", 8, "study", "vmamba-tiny-s1l8-maskrcnn-1x", canvas=[800, 1333])
    mismatch, between = frame_findings(square, native)
    assert (mismatch.key, mismatch.runs) == ("box-frame-mismatch", ("square/seed-7",))
    assert (
        "trained as fractions of the padded square but are scored as fractions of the original image"
        in mismatch.message
    )
    assert (between.key, between.together) == ("box-frames-of-arms", True)
    assert between.evidence["frames"] == {"square": "original image", "native": "padded square"}
    assert "(original image: square; padded square: native)" in between.message
    assert not frame_findings(*(record | {"test_box_frame": "padded-square"} for record in (square, native)))


def test_one_seed_for_all_is_said_of_the_runs_together() -> None:
    (finding,) = findings(CLEAN, OTHER_ARM)
    assert (finding.key, str(finding)) == ("single-seed", finding.message)


def test_what_several_runs_share_is_said_once() -> None:
    runs = [planted(arm=arm, seed=seed, backbone__frozen_mode="train") for arm in "ab" for seed in (7, 8, 9)]
    (finding,) = findings(*runs)
    assert len(finding.runs) == 6
    assert str(finding).startswith("a/seed-7, a/seed-8, a/seed-9, b/seed-7 and 2 more: the frozen backbone")


def test_encoders_from_outside_the_catalog_are_not_blamed_for_what_nobody_knows() -> None:
    own = planted(backbone__name="mine.py:build", backbone__family="own", backbone__tap=None, observed__tap_norm=None)
    own["backbone"]["geometry"]["mean"] = [0, 0, 0]
    assert findings(own, OTHER_SEED) == []


def test_a_record_from_before_these_facts_were_kept_has_no_finding_about_them() -> None:
    old = copy.deepcopy(CLEAN)
    del old["observed"]
    assert findings(old, OTHER_SEED) == []


@pytest.mark.parametrize(
    ("train", "test", "signs"),
    [
        ("a cat.", 'a "cat"', ["quotes", "full stop"]),
        ("a cat", "a\ncat", ["line break"]),
        ("a cat", "a  cat", ["spacing"]),
        ("a cat", "a dog.", []),
    ],
)
def test_prompts_are_told_apart_by_their_signs(train: str, test: str, signs: list[str]) -> None:
    assert prompt_signs(train, test) == signs


def test_every_kind_of_finding_is_explained_on_the_page() -> None:
    checks: list[Callable[..., Any]] = [*audit_backbones.CHECKS, *audit_canvas.CHECKS, *audit_design.CHECKS]
    assert len(checks) == len(CHECKS)
    page = DOCS.read_text(encoding="utf-8")
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", page, re.MULTILINE)}
    assert {key for key, *_ in FLAWS.values()} | {"single-seed", "unequal-sizes"} <= headings


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("digits-vit", "digits-vmamba", "digits-maxvit"), None),
        (("in1kft-vit-t", "in1kft-vit-l"), "(85.9%): a 75.5%"),
        (("in1k-vit-s", "in1kft-vit-l"), None),
        (("digits-vit", "in1kft-vit-l"), None),
        (("digits-vit", "mine.py:build"), None),
    ],
)
def test_weights_that_classify_far_worse_are_a_confound(names: tuple[str, ...], told: str | None) -> None:
    planted_arms = [planted(arm=arm, backbone__name=name) for arm, name in zip("abc", names, strict=False)]
    arms = {f"{one['arm']}/seed-7": RunRecord.model_validate(one) for one in planted_arms}
    found = list(audit_backbones.unequal_accuracy(arms))
    assert len(found) == (told is not None)
    if told is not None:
        assert (found[0].key, found[0].severity, found[0].runs) == ("unequal-accuracy", "warning", ("a/seed-7",))
        assert told in found[0].message
