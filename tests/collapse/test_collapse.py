"""Verdicts on localization: right on arms of known kind, and for the reason that is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.validity.collapse import KINDS, Setting, rows, shares, try_setting
from hypothesis import given
from hypothesis import strategies as st

from eyeswap.collapse.answers import TRUE_SIZES
from eyeswap.collapse.signs import (
    CONSTANT_BOX,
    Boxes,
    Gain,
    Located,
    Losses,
    Reading,
    Signs,
    box_entropy,
    describe_boxes,
    describe_losses,
    measure_run,
)
from eyeswap.collapse.verdict import FLOOR, Diagnosis, Verdict, by_arm, diagnose, expect, judge
from eyeswap.results.run import Run
from written_runs import TRUE, write_run

SHUFFLED, BLANKED = "shuffled images", "blanked images"


def gain(value: float, half: float = 2.0) -> Gain:
    return Gain(value, value - half, value + half, 400)


FAIR = gain(25)


def signs(arm: str = "a", vqa: float | None = 60, over: Gain | None = FAIR, **changes: Any) -> Signs:
    plain = Signs(
        run=f"{arm}/seed-7",
        arm=arm,
        seed=7,
        vqa=vqa,
        localization=None if over is None else over.value + 6,
        gains={} if over is None else {CONSTANT_BOX: over},
        vqa_gains={},
        boxes=Boxes(400, 0.01, 0.02, 6.0, 6.5),
        losses=Losses(0.8, 0, 250),
    )
    return replace(plain, **changes)


PEERS = [signs(f"peer-{n}", 56 + 2 * n, gain(20 + 2 * n)) for n in range(5)]  # one point of gain a point of VQA


def alone(one: Signs) -> Diagnosis:
    return judge([one])[0]


def among_peers(one: Signs) -> Diagnosis:
    return judge([one, *PEERS])[0]


@pytest.mark.parametrize(
    ("over", "verdict", "words"),
    [
        (gain(25), "healthy", "25.0 points [23.0, 27.0] over the best constant box"),
        (gain(6), "weak", "but less than 10 points"),
        (gain(0), "collapsed", "not significantly above zero, and below half of the 10.0 expected"),
        (gain(-8), "collapsed", "not significantly above zero"),
        (gain(8, 12), "cannot tell", "ask more examples"),
    ],
)
def test_an_arm_alone_is_judged_by_the_constant_box(over: Gain, verdict: Verdict, words: str) -> None:
    found = alone(signs(over=over))
    assert found.verdict == verdict
    assert words in found.reasons[0]
    assert any("0 peers localize; a line needs 4" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("over", "verdict"),
    [(gain(24), "healthy"), (gain(15), "weak"), (gain(8), "collapsed"), (gain(0), "collapsed"), (gain(40), "healthy")],
)
def test_peers_say_what_to_expect(over: Gain, verdict: Verdict) -> None:
    found = among_peers(signs(vqa=60, over=over))
    assert found.expected is not None
    assert found.expected.value == pytest.approx(24)
    assert found.expected.num_peers == 5
    assert found.verdict == verdict


def test_an_arm_far_below_its_peers_has_collapsed_although_it_beats_the_constant_box() -> None:
    assert alone(signs(over=gain(8))).verdict == "weak"
    assert "far below the 24.0 that its peers predict" in among_peers(signs(over=gain(8))).reasons[0]


def test_a_collapsed_peer_does_not_lower_what_is_expected() -> None:
    arms = [signs("x", 60, gain(8)), signs("y", 61, gain(0)), signs("z", 59, gain(-1)), *PEERS]
    found = judge(arms)[0]
    assert found.expected is not None
    assert found.expected.num_peers == 5
    assert found.verdict == "collapsed"


def test_a_lucky_arm_is_unmasked_by_shuffled_images() -> None:
    lucky = signs(over=gain(12))
    assert alone(lucky).verdict == "healthy"
    assert any("not probed" in reason for reason in alone(lucky).reasons)
    probed = alone(replace(lucky, gains={CONSTANT_BOX: gain(12), SHUFFLED: gain(0.5)}))
    assert probed.verdict == "collapsed"
    assert "over the same model on shuffled images" in probed.reasons[0]


def test_a_probe_of_too_few_examples_convicts_nobody() -> None:
    found = alone(signs(gains={CONSTANT_BOX: gain(25), BLANKED: gain(15, 20)}))
    assert found.verdict == "healthy"
    assert any("15.0 points [-5.0, 35.0] over the same model on blanked images" in one for one in found.reasons)


def test_an_arm_whose_hits_hardly_need_the_image_is_weak() -> None:
    found = alone(signs(gains={CONSTANT_BOX: gain(25), SHUFFLED: gain(2, 1)}))
    assert found.verdict == "weak"
    assert "most of its hits need no image" in found.reasons[0]


def test_a_probe_that_shows_little_and_proves_nothing_asks_for_more() -> None:
    found = alone(signs(gains={CONSTANT_BOX: gain(25), SHUFFLED: gain(3, 4)}))
    assert found.verdict == "cannot tell"
    assert "3.0 points [-1.0, 7.0]" in found.reasons[0]
    assert "probe more examples" in found.reasons[0]


def test_boxes_that_hardly_vary_decide_where_the_score_cannot() -> None:
    one_box = Boxes(100, 0.0, 0.9, 0.4, 6.5)
    found = alone(signs(over=gain(3, 6), boxes=one_box))
    assert found.verdict == "collapsed"
    assert "boxes hardly vary" in found.reasons[0]
    assert "0.4 bits of entropy, the ground truth 6.5; 90% are identical" in found.reasons[-1]


def test_most_answers_being_one_box_is_never_healthy() -> None:
    mostly = Boxes(400, 0.0, 0.71, 2.6, 6.5)
    found = alone(signs(over=gain(14), boxes=mostly))
    assert found.verdict == "weak"
    assert "but 71% of its boxes are identical" in found.reasons[0]
    assert alone(signs(over=gain(14), boxes=replace(mostly, true_entropy_bits=2.7))).verdict == "healthy"


def test_the_floor_of_ten_points_counts_among_scattered_peers_too() -> None:
    peers = [signs(f"peer-{n}", 56 + 2 * n, gain(value)) for n, value in enumerate((12, 25, 11, 24, 16))]
    found = judge([signs(over=gain(8.8)), *peers])[0]
    assert found.expected is not None
    assert found.expected.low is not None
    assert found.expected.low < 8.8
    assert found.verdict == "weak"
    assert "but less than 10 points" in found.reasons[0]


def located(title: str, over: Gain, **changes: Any) -> Located:
    return replace(Located(title, over.value + 6, {CONSTANT_BOX: over}, Boxes(100, 0.01, 0.02, 6.0, 6.5)), **changes)


def test_the_worst_benchmark_decides() -> None:
    parts = {name: located(name.upper(), gain(27)) for name in ("refcoco", "refcoco+", "refcocog")}
    found = alone(signs(over=gain(20), benchmarks={**parts, "ocid-ref": located("OCID-Ref", gain(0))}))
    assert found.verdict == "collapsed"
    assert found.reasons[0].startswith("OCID-Ref gains 0.0 points")
    assert {name: one.verdict for name, one in found.benchmarks.items()} == {
        "refcoco": "healthy",
        "refcoco+": "healthy",
        "refcocog": "healthy",
        "ocid-ref": "collapsed",
    }
    assert alone(signs(over=gain(20), benchmarks=parts)).verdict == "healthy"


def test_a_benchmark_is_judged_by_what_peers_gain_in_it() -> None:
    def arm(name: str, vqa: float, hard: float) -> Signs:
        return signs(
            name, vqa, gain(20 + hard / 2), benchmarks={"a": located("A", gain(30)), "b": located("B", gain(hard))}
        )

    peers = [arm(f"peer-{n}", 58 + n, 40) for n in range(5)]
    found = judge([arm("own", 60, 14), *peers])[0]
    assert found.benchmarks["a"].verdict == "healthy"
    assert found.benchmarks["b"].verdict == "collapsed"
    assert found.verdict == "collapsed"
    assert any(reason.startswith("B gains 14.0") for reason in found.reasons)


def test_what_one_benchmark_leaves_open_is_no_verdict_of_health() -> None:
    parts = {"a": located("A", gain(27)), "b": located("B", gain(8, 12))}
    found = alone(signs(benchmarks=parts))
    assert found.verdict == "cannot tell"
    assert found.reasons[0].startswith("B gains 8.0 points [-4.0, 20.0]")
    fair = alone(signs(benchmarks={**parts, "b": located("B", gain(18, 20))}))
    assert fair.verdict == "healthy"
    assert any(reason.startswith("B (cannot tell) gains 18.0 points [-2.0, 38.0]") for reason in fair.reasons)


def test_a_small_probe_of_one_benchmark_leaves_the_verdict_to_all_of_them() -> None:
    def verdict(probe: Gain) -> Verdict:
        parts = {"a": located("A", gain(27), gains={CONSTANT_BOX: gain(27), SHUFFLED: probe})}
        return alone(signs(benchmarks={**parts, "b": located("B", gain(27))})).verdict

    assert verdict(gain(4, 5)) == "healthy"
    assert verdict(gain(0)) == "collapsed"
    assert verdict(replace(gain(0), n=20)) == "healthy"


def reading(score: float, over: float, lead: Gain) -> Reading:
    return Reading(score, lead, {CONSTANT_BOX: gain(over)})


def test_right_boxes_in_another_frame_are_no_collapse() -> None:
    other = {"padded-square": reading(52, 46, gain(46)), TRUE_SIZES: reading(60, 40, gain(54))}
    found = alone(signs(over=gain(0), readings=other))
    assert found.verdict == "wrong frame"
    assert found.reasons[0] == "localization scores 6.0, but would score 52.0 in the padded square"
    partly = alone(signs(over=gain(30), readings={"canvas": reading(42, 36, gain(6))}))
    assert partly.verdict == "wrong frame"


@pytest.mark.parametrize(("over", "lead"), [(4, gain(46)), (46, gain(4, 5))])
def test_a_frame_that_is_not_healthy_or_not_surely_better_is_no_excuse(over: float, lead: Gain) -> None:
    assert alone(signs(over=gain(0), readings={"canvas": reading(52, over, lead)})).verdict == "collapsed"


def test_right_places_and_wrong_sizes_are_loose_boxes() -> None:
    found = alone(signs(over=gain(-2), readings={TRUE_SIZES: reading(40, 28, gain(36))}))
    assert found.verdict == "loose boxes"
    assert found.reasons[0].startswith("localization scores 4.0, but would score 40.0 if its boxes had the true sizes")
    assert alone(signs(over=gain(25), readings={TRUE_SIZES: reading(40, 28, gain(9))})).verdict == "healthy"


def test_what_explains_all_benchmarks_explains_each_unless_it_is_shown_not_to() -> None:
    def verdicts(of_one: Reading) -> tuple[Verdict, Verdict]:
        parts = {"a": located("A", gain(0), readings={"canvas": of_one}), "b": located("B", gain(27))}
        found = alone(signs(over=gain(0), readings={"canvas": reading(52, 46, gain(46))}, benchmarks=parts))
        return found.verdict, found.benchmarks["a"].verdict

    unsure = Reading(20, gain(8, 9), {CONSTANT_BOX: gain(8, 9)})
    assert verdicts(unsure) == ("wrong frame", "wrong frame")
    assert verdicts(replace(unsure, gains={CONSTANT_BOX: gain(2)})) == ("collapsed", "collapsed")


def test_peers_that_scatter_widely_convict_nobody() -> None:
    peers = [signs(f"peer-{n}", 56 + 2 * n, gain(value)) for n, value in enumerate((30, 75, 45, 15, 60))]
    found = judge([signs(over=gain(6, 12)), *peers])[0]
    assert found.expected is not None
    assert found.expected.value > 40
    assert found.verdict == "cannot tell"


def test_arms_whose_boxes_are_misread_are_no_peers() -> None:
    misread = [
        signs(f"misread-{n}", 56 + n, gain(12), readings={"canvas": reading(52, 46, gain(30))}) for n in range(9)
    ]
    found = judge([signs(over=gain(24)), *PEERS, *misread])[0]
    assert found.expected is not None
    assert found.expected.num_peers == 5


def test_circumstances_are_told_and_decide_nothing() -> None:
    one = signs(boxes=Boxes(100, 0.7, 0.1, 6.0, 6.5), losses=Losses(1.2, 3, 250))
    found = among_peers(one)
    assert found.verdict == "healthy"
    text = "; ".join(found.reasons)
    for words in ("70% of the answers are not boxes", "3 spikes", "final loss is 1.200, its peers' 0.800"):
        assert words in text


def test_without_boxes_nothing_can_be_told() -> None:
    found = alone(signs(over=None))
    assert (found.verdict, found.expected) == ("cannot tell", None)
    assert found.reasons == ("no localization benchmark with boxes was asked",)


@pytest.mark.parametrize(("vqa", "why"), [(None, "no VQA score"), (30, "far from all 5 peers'")])
def test_what_cannot_be_predicted_is_not(vqa: float | None, why: str) -> None:
    found = among_peers(signs(vqa=vqa))
    assert found.expected is not None
    assert (found.expected.value, found.expected.low) == (FLOOR, None)
    assert why in found.expected.why


@given(st.lists(st.floats(-30, 60), min_size=6, max_size=9), st.floats(40, 70))
def test_one_wild_peer_moves_no_expectation_far(others: list[float], vqa: float) -> None:
    points = {f"p{n}": (45.0 + 3 * n, 10.0 + n) for n in range(7)} | {"wild": (54.0, others[0])}
    found = expect("own", vqa, FAIR, points)
    if found.low is not None:
        assert abs(found.value - max(10 + (vqa - 45) / 3, 0)) < 4


def test_weak_peers_make_no_arm_healthy() -> None:
    peers = [signs(f"peer-{n}", 58 + n, gain(4 + n / 10)) for n in range(5)]
    found = judge([signs(over=gain(4)), *peers])[0]
    assert found.verdict == "weak"
    assert found.expected is not None
    assert found.expected.why == "the 5 peers predict under 10 points at its VQA"


def test_the_worst_seed_is_the_arms_verdict() -> None:
    runs = [replace(signs(over=over), seed=seed) for seed, over in ((7, gain(25)), (8, gain(0)), (9, gain(24)))]
    (arm,) = by_arm(judge(runs))
    assert arm.verdict == "collapsed"
    assert arm.reasons[0] == "1 of 3 seeds: collapsed"
    assert json.loads(json.dumps(arm.as_dict()))["runs"][1]["signs"]["gains"][CONSTANT_BOX]["high"] == 2.0


def test_entropy_of_boxes() -> None:
    one = [[0.1, 0.1, 0.2, 0.2]]
    assert box_entropy(np.array(one * 9)) == 0
    places = [[x / 8, y / 8, x / 8 + 0.1, y / 8 + 0.1] for x in range(8) for y in range(8)]
    assert box_entropy(np.array(places)) == pytest.approx(6)
    found = describe_boxes(one * 3 + places[1:2], places, 8)
    assert (found.invalid_rate, found.commonest_share) == (0.5, 0.75)
    assert 0 < found.diversity < 0.25
    assert describe_boxes([], places, 8).diversity == 0


def test_losses_and_their_spikes() -> None:
    losses = [1.0] * 200
    losses[150] = 2.5
    losses[3] = 9.0  # warm-up
    assert describe_losses(losses) == Losses(1.0, 1, 200)
    assert describe_losses([]) is None


def test_made_up_arms_get_the_right_verdicts() -> None:
    found = try_setting(Setting(200, probed=True, peers="close"), num_studies=2)
    right = {kind: shares(found, kind)[0] for kind in KINDS}
    assert found["healthy"]["collapsed"] == 0
    assert right["healthy"] >= 85
    for kind in KINDS:
        if kind not in ("healthy", "weak"):
            assert right[kind] == 100, kind
    assert found["weak"]["collapsed"] == 0


@pytest.mark.extended
def test_too_few_examples_are_said_to_be_too_few() -> None:
    found = try_setting(Setting(15, probed=False, peers="none"), num_studies=4)
    assert found["position prior"]["cannot tell"] >= 1
    assert found["healthy"]["collapsed"] == 0


@pytest.mark.extended
def test_the_table_of_the_page_can_be_printed() -> None:
    settings = [Setting(num_examples, probed=True, peers="scattered") for num_examples in (10, 20)]
    first, line, *rest = list(rows(1, settings))
    assert first.count("|") == line.count("|") == rest[0].count("|")
    assert [row.split("|")[1].strip() for row in rest] == ["10", "20"]


def test_runs_are_measured_from_their_files(tmp_path: Path) -> None:
    seeing = write_run(tmp_path, "seeing", TRUE)
    blind = write_run(tmp_path, "blind", [[0.0, 0.0, 0.25, 0.25]])
    silent = write_run(tmp_path, "silent", [None])
    found = {arm.arm: arm for arm in diagnose(map(Run, [seeing, blind, silent]))}
    assert {arm: one.verdict for arm, one in found.items()} == {
        "seeing": "healthy",
        "blind": "weak",
        "silent": "collapsed",
    }
    measured = found["blind"].runs[0].signs
    assert (measured.vqa, measured.localization) == (100, 6.25)
    assert measured.boxes is not None
    assert (measured.boxes.commonest_share, measured.boxes.entropy_bits) == (1.0, 0.0)
    assert measured.losses == Losses(2.0, 0, 1)
    assert any("100% of the answers are not boxes" in reason for reason in found["silent"].reasons)


def test_frames_and_places_are_read_from_the_stored_answers(tmp_path: Path) -> None:
    misread = write_run(tmp_path, "misread", TRUE[::-1])
    path = misread / "predictions" / "refcoco.parquet"
    table = pq.read_table(path)
    right = pa.array([1.0] * 90 + [0.0] * 6, pa.float64())
    for column in ("padded_square_iou", "study_iou"):
        table = table.append_column(column, right)
    for column in ("original_iou", "canvas_iou"):
        table = table.append_column(column, pa.array([0.0] * 96, pa.float64()))
    pq.write_table(table, path)
    large = [[x1 - 0.1, y1 - 0.1, x2 + 0.1, y2 + 0.1] for x1, y1, x2, y2 in filter(None, TRUE)]
    loose = write_run(tmp_path, "loose", large)
    found = {arm.arm: arm for arm in diagnose(map(Run, [misread, loose]))}
    assert found["misread"].verdict == "wrong frame"
    assert found["misread"].reasons[0] == "localization scores 0.0, but would score 93.8 in the padded square"
    assert found["loose"].verdict == "loose boxes"
    assert (
        found["loose"]
        .reasons[0]
        .endswith("would score 100.0 if its boxes had the true sizes: they are in the right places")
    )


def test_without_a_constant_box_from_training_the_best_one_for_these_examples_is_found(tmp_path: Path) -> None:
    run = write_run(tmp_path, "blind", [[0.0, 0.0, 0.25, 0.25]], baseline="no training split on disk")
    over = measure_run(Run(run)).gains[CONSTANT_BOX]
    assert over.value == pytest.approx(0)
    assert diagnose([Run(run)])[0].verdict == "collapsed"


def test_probes_beside_the_run_are_compared_example_by_example(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "seeing", TRUE)
    for number, (images, answers) in enumerate((("shuffled", [None]), ("blanked", TRUE))):
        probe = write_run(tmp_path / str(number), "seeing", answers)
        (probe / "evaluation.json").write_text(json.dumps({"images": images}), encoding="utf-8")
        (run / "evaluations").mkdir(exist_ok=True)
        probe.rename(run / "evaluations" / images)
    measured = measure_run(Run(run))
    assert measured.gains[SHUFFLED].value == 100
    assert measured.gains[BLANKED].value == 0
    assert measured.vqa_gains[SHUFFLED].value == 0
    found = diagnose([Run(run)])[0]
    assert found.verdict == "collapsed"
    assert "blanked images" in found.reasons[0]
