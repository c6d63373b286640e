"""Scores of the published scorers, case by case.

``EYESWAP_GOLDENS`` names a folder; every golden file below it whose metric is known here is used. Without it
the compact copy beside this file is. What a published scorer crashes on must be None or a DataError here.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from eyeswap.data.formats import Example, clutter_level, full_set_box, normalise_box, read_pope
from eyeswap.data.formats.boxes import check_box, xywh_to_xyxy
from eyeswap.data.formats.record import Record
from eyeswap.data.formats.tallyqa import choice_message
from eyeswap.data.instruction import parse_messages
from eyeswap.data.official.subsets import shuffled, subsample
from eyeswap.errors import DataError
from eyeswap.evaluation import BENCHMARKS, get_benchmark
from eyeswap.evaluation.boxes import clipped, iou, parse_box
from eyeswap.evaluation.frames import View, study_frame
from eyeswap.evaluation.gqa import clean_gqa, count_steps
from eyeswap.evaluation.hallucination import say_yes_or_no, yes_no_report
from eyeswap.evaluation.text import (
    VIZWIZ_CONTRACTIONS,
    normalise_answer,
    normalise_textvqa,
    strip_punctuation,
)
from eyeswap.evaluation.vqa import (
    is_unanswerable,
    score_textvqa,
    score_vizwiz,
    score_vqa_official,
    score_vqa_study,
)
from eyeswap.geometry import ImageGeometry
from eyeswap.vlm.prompt import VicunaPrompt

HERE = Path(__file__).parent
COMPACT = HERE / "data" / "eval"
POPE_FILES = HERE.parent / "fixtures" / "pope" / "e3e39262"


def two_places(fraction):
    return None if fraction is None else round(100 * fraction, 2)


def example(number, truth, question="", subset="", kind="", **details):
    return Example(str(number), "image.jpg", "image", subset, kind, question, truth, details=details)


def run(benchmark, pairs):
    return benchmark.aggregate([benchmark.score(asked, answer) for asked, answer in pairs])


def vqa_v2_vlmeval(case):
    text, answers = case["prediction"], case["answers"]
    return {
        "score": score_vqa_study(text, answers),
        "normalised_prediction": normalise_answer(text),
        "normalised_answers": [strip_punctuation(answer) for answer in answers],
    }


def vqa_v2_official(case):
    return {"score_percent": two_places(score_vqa_official(case["prediction"], case["answers"]))}


def vizwiz(case):
    text = case["prediction"]
    return {
        "score_percent": two_places(score_vizwiz(text, case["answers"])),
        "normalised_prediction": normalise_answer(text, VIZWIZ_CONTRACTIONS),
        "predicted_answerable": int(not is_unanswerable(text)),
    }


def textvqa_m4c(case):
    text, answers = case["prediction"], case["answers"]
    return {
        "score": score_textvqa(text, answers),
        "normalised_prediction": normalise_textvqa(text) if isinstance(text, str) else None,
        "normalised_answers": [normalise_textvqa(answer) for answer in answers],
    }


def gqa(case):
    cleaned = clean_gqa(case["prediction"])
    return {"cleaned_prediction": cleaned, "correct": int(cleaned == case["answer"])}


def pope_text(case):
    return {"yes_no": say_yes_or_no(case["prediction"])}


def pope_text_aggregate(case):
    told = [say_yes_or_no(text) == "yes" for text in case["predictions"]]
    report = yes_no_report(told, [label == "yes" for label in case["labels"]])
    counts = {name: int(report[name]) for name in ("tp", "fp", "tn", "fn")}
    rates = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    return counts | {name: report[name] if report[name] is None else report[name] / 100 for name in rates}


def box_score(threshold):
    def score(case):
        box = parse_box(case["prediction"])
        if box is None:
            return {"parsed": None, "correct": 0}
        overlap = iou(box, case["box"])
        return {"parsed": list(box), "iou": overlap, "correct": int(overlap >= threshold)}

    return score


def grounding_aggregate(name, prefix, subset_field, subset_key):
    def aggregate(case):
        benchmark = get_benchmark(name)
        pairs = [
            (example(number, tuple(item["box"]), subset=item[subset_field]), item["prediction"])
            for number, item in enumerate(case["items"])
        ]
        result = run(benchmark, pairs)
        scores = {subset_key(subset): part["score"] for subset, part in result["subsets"].items()}
        return {f"{prefix}{subset}": score / 100 for subset, score in scores.items()} | {
            f"{prefix}All": result["score"] / 100
        }

    return aggregate


def study_truth(item, transform):
    """Return the true box of a case in the frame that the study's repository scores in."""
    transform = transform or {}
    placement = study_frame(tuple(item["image_wh"]), transform.get("policy"), transform.get("target_resolution"))
    return clipped(placement.convert(tuple(item["box"]), "image", "canvas-unit"))


def box_frames(case):
    return {"box": list(study_truth(case, case["transform"]))}


def in_study_frame(name, transform):
    """Return a benchmark that scores in the frame of the study's repository, from the annotation's own pixels."""
    view = None
    if transform is not None:
        canvas = tuple(transform["target_resolution"])
        view = View(ImageGeometry(strategy="squash", canvas=canvas), transform["policy"])
    return replace(get_benchmark(name), box_frame="study", view=view, exact_truth=True)


def located(number, item, subset=""):
    pixels = item.get("box")
    width, height = item["image_wh"]
    rounded = item.get("bbox") or [value / side for value, side in zip(pixels, (width, height) * 2, strict=True)]
    asked = example(number, tuple(rounded), subset=subset)
    return replace(asked, size=(width, height), box_px=None if pixels is None else tuple(pixels))


def score_in_study_frame(benchmark, asked, answer):
    """Score an answer; refuse what the published scorer divides by zero on, an answer and a truth without area."""
    outcome = benchmark.score(asked, answer)
    box = parse_box(answer)
    if box is not None and benchmark.view is not None:
        truth = study_truth(
            {"image_wh": asked.size, "box": asked.box_px or full_set_box(asked.truth, asked.size)},
            {"policy": benchmark.view.strategy, "target_resolution": benchmark.view.geometry.canvas},
        )
        if not any((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, truth)):
            raise DataError("neither the answer nor the truth has an area")
    return outcome


def box_score_v2(name):
    def score(case):
        benchmark = in_study_frame(name, case["transform"])
        outcome = score_in_study_frame(benchmark, located(0, case), case["prediction"])
        box = parse_box(case["prediction"])
        return {
            "parsed": None if box is None else list(box),
            "truth": list(study_truth(case, case["transform"])),
            "iou": outcome.overlaps["study"],
            "correct": int(outcome.score),
        }

    return score


def grounding_aggregate_v2(name, prefix, subset_field, subset_key):
    def aggregate(case):
        benchmark = in_study_frame(name, case["transform"])
        outcomes = [
            score_in_study_frame(benchmark, located(number, item, item[subset_field]), item["prediction"])
            for number, item in enumerate(case["items"])
        ]
        result = benchmark.aggregate(outcomes)
        scores = {subset_key(subset): part["score"] for subset, part in result["subsets"].items()} | {
            "All": result["score"]
        }
        return {f"{prefix}{subset}": score / 100 for subset, score in scores.items()}

    return aggregate


def metadata_v2(case):
    size = tuple(case["image_wh"])
    box = tuple(map(float, case["box"])) if case["kind"] == "ocid_xyxy" else xywh_to_xyxy(case["box"])
    truth = normalise_box(box, size)
    return {
        "bbox": list(truth),
        "bbox_xyxy": [float(value) for value in box],
        "v2_bbox_xyxy": list(full_set_box(truth, size)),
        "image_width": size[0],
        "image_height": size[1],
    }


def box_preparation(case):
    if case["kind"] == "ocid_take_id":
        return {"split": f"{clutter_level(case['take_id']).title()} Clutter"}
    size = tuple(case["image_wh"])
    box = tuple(case["box"]) if case["kind"] == "ocid_xyxy" else xywh_to_xyxy(case["box"])
    if case.get("normalise", True):
        return {"box": list(normalise_box(box, size))}
    return {"box": [round(value, 2) for value in check_box(box, size)]}


def prompts(case):
    benchmark = next(found for found in BENCHMARKS.values() if found.family == case["dataset"])
    message = benchmark.user_message(example(0, "", question=case["text"]))
    if case["dataset"] == "tally-qa":
        full = message
        message = choice_message(case["text"], case["choices"])
        assert (message == full) == (case["choices"] == [str(count) for count in range(16)])
    return {"prompt": VicunaPrompt().question(message)}


def vicuna_conversation(case):
    rows = [{"from": speaker, "value": text} for speaker, text in case["turns"]]
    turns = VicunaPrompt().turns(parse_messages(Record({"conversations": rows}, "case")))
    assert [turn.is_answer for turn in turns] == [speaker == "gpt" for speaker, _ in case["turns"]]
    return {"turns": [turn.text for turn in turns], "prompt": "".join(turn.text for turn in turns).rstrip()}


def vqa_v2_vlmeval_aggregate(case):
    pairs = [
        (
            example(
                number,
                tuple(item["answers"]),
                question_type=item["question_type"],
                answer_type=item["answer_type"],
            ),
            item["prediction"],
        )
        for number, item in enumerate(case["items"])
    ]
    result = run(get_benchmark("vqav2"), pairs)
    return {"accuracy": round(result["score"], 2)} | {
        f"by_{field}": by_part(result["details"], field) for field in ("question_type", "answer_type")
    }


def by_part(details, field):
    return {name.partition("/")[2]: round(value, 2) for name, value in details.items() if name.startswith(f"{field}/")}


def vizwiz_aggregate(case):
    pairs = [
        (example(number, tuple(item["answers"]), answerable=item["answerable"]), item["prediction"])
        for number, item in enumerate(case["items"])
    ]
    result = run(get_benchmark("vizwiz"), pairs)
    return {
        "accuracy": round(result["score"], 2),
        "average_precision": round(result["details"]["average_precision"], 2),
        "f1_score": round(result["details"]["f1"], 2),
    }


def gqa_aggregate(case):
    pairs = []
    for number, item in enumerate(case["items"]):
        details = {name: item[name] for name in ("structural", "semantic", "global_group")}
        program = [[step["operation"], step["argument"]] for step in item["program"]]
        asked = example(number, item["answer"], question=item["question"], program=program, **details)
        pairs.append((asked, item["prediction"]))
    result = run(get_benchmark("gqa"), pairs)
    details = result["details"]
    counts = {
        "structural": Counter(asked.details["structural"] for asked, _ in pairs),
        "semantic": Counter(asked.details["semantic"] for asked, _ in pairs),
        "steps": Counter(str(count_steps(asked.details["program"])) for asked, _ in pairs),
        "words": Counter(str(len(asked.question.split())) for asked, _ in pairs),
    }
    names = {
        "structural": "by_structural_type",
        "semantic": "by_semantic_type",
        "steps": "by_steps",
        "words": "by_words",
    }
    tables = {
        names[field]: {part: [value, counts[field][part]] for part, value in by_part(details, field).items()}
        for field in names
    }
    distance = details["distribution"]
    return tables | {
        "accuracy": round(result["score"], 2),
        "binary": round(details["binary"] or 0.0, 2),  # the script prints 0 where nothing is
        "open": round(details["open"] or 0.0, 2),
        "distribution": None if distance is None else round(distance, 2),
    }


def areas(result, prefix, subsets):
    metrics = {"Accuracy": "accuracy", "AUCROC": "roc_auc", "AUCPR": "pr_auc"}
    details = result["details"]
    for name, value in details.items():
        assert value is not None or name.startswith("accuracy/") or result["reasons"][name]
    return {
        f"{prefix}{subset}-{title}": None if details[f"{key}/{subset}"] is None else details[f"{key}/{subset}"] / 100
        for subset in subsets
        for title, key in metrics.items()
    }


def pope_probabilities(case):
    pairs = [
        (
            example(f"{split}/{number}", item["label"], subset=split),
            (float(item["p_yes"]), float(item["p_no"])),
        )
        for split, items in case.items()
        for number, item in enumerate(items)
    ]
    return areas(run(get_benchmark("pope"), pairs), "POPE-", ("adversarial", "popular", "random", "final"))


def tallyqa(case):
    pairs = [
        (example(number, item["answer"], subset=item["split"]), tuple(map(float, item["probabilities"])))
        for number, item in enumerate(case["items"])
    ]
    return areas(run(get_benchmark("tallyqa"), pairs), "accuracy__TallyQA-", ("simple", "complex", "final"))


def tallyqa_upstream(case):
    """As `tallyqa`; an area over some of the counts is None, as upstream's scorer fails on it."""
    found = tallyqa(case)
    for subset in ("simple", "complex", "final"):
        counts = {item["answer"] for item in case["items"] if subset in (item["split"], "final")}
        if counts != set(range(16)):
            found |= {f"accuracy__TallyQA-{subset}-{area}": None for area in ("AUCROC", "AUCPR")}
    return found


def slim_subsets(case):
    if "n" in case:
        return {"first_40_positions": shuffled(range(case["n"]), case["seed"])[:40]}
    if case["dataset"] == "pope":
        items = [(row.subset, int(row.raw_id)) for row in read_pope(POPE_FILES, "images")]
        part, name = (lambda item: item[0]), list
    else:
        (field,) = set(case) - {"dataset", "seed", "ids_in_file_order", "slim_sizes"}
        levels = [clutter_level(value) if field == "take_ids" else value for value in case[field]]
        items = list(zip(case["ids_in_file_order"], levels, strict=True))
        part, name = (lambda item: item[1]), lambda item: item[0]
    order = [name(item) for item in shuffled(items, case["seed"])]
    slim = {
        str(size): [name(item) for item in subsample(items, size, part, case["seed"])] for size in case["slim_sizes"]
    }
    return {"n_full": len(order), "full_order": order, "full_order_first_50": order[:50], "slim": slim}


def letterbox(case):
    width, height = case["width"], case["height"]
    geometry = ImageGeometry(strategy="letterbox", canvas=(224, 224), interpolation="bicubic")
    placement = geometry.placement(width, height)
    left, top = (round(offset / scale) for offset, scale in zip(placement.offset, placement.scale, strict=True))
    return {
        "padded_size": [width + 2 * left, height + 2 * top],
        "content_box": [left, top, left + width, top + height],
    }


METRICS = {
    function.__name__: function
    for function in (
        vqa_v2_vlmeval,
        vqa_v2_official,
        vizwiz,
        textvqa_m4c,
        gqa,
        pope_text,
        pope_text_aggregate,
        box_preparation,
        prompts,
        vicuna_conversation,
        vqa_v2_vlmeval_aggregate,
        vizwiz_aggregate,
        gqa_aggregate,
        pope_probabilities,
        box_frames,
        metadata_v2,
        slim_subsets,
        letterbox,
    )
} | {
    "refcoco_box": box_score(0.5),
    "ocidref_box": box_score(0.25),
    "refcoco_aggregate": grounding_aggregate("refcoco", "accuracy__", "refer_dataset", str),
    "ocidref_aggregate": grounding_aggregate(
        "ocid-ref", "accuracy__OCIDRef-", "clutter_split", lambda subset: subset.split()[0]
    ),
    "tallyqa": tallyqa_upstream,
    "tallyqa_v2": tallyqa,
    "refcoco_box_v2": box_score_v2("refcoco"),
    "ocidref_box_v2": box_score_v2("ocid-ref"),
    "refcoco_aggregate_v2": grounding_aggregate_v2("refcoco", "accuracy__", "refer_dataset", str),
    "ocidref_aggregate_v2": grounding_aggregate_v2(
        "ocid-ref", "accuracy__OCIDRef-", "clutter_split", lambda subset: subset.split()[0]
    ),
}


def agrees(ours, theirs):
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(map_agrees(ours, theirs))
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(agrees(a, b) for a, b in zip(ours, theirs, strict=True))
    if theirs == "NaN":
        return ours is None
    if isinstance(theirs, float) or isinstance(ours, float):
        return ours is not None and math.isclose(ours, float(theirs), rel_tol=0, abs_tol=1e-9)
    return type(ours) is type(theirs) and ours == theirs


def map_agrees(ours, theirs):
    return (agrees(ours[key], value) for key, value in theirs.items())


def mismatch(function, case):
    """Return what differs, or None."""
    reference = case["reference"]
    try:
        ours = function(case["input"])
    except DataError as error:
        return None if isinstance(reference, str) else f"refused: {error}"
    if isinstance(reference, str):  # the published scorer crashed on this run or this case
        return None if None in ours.values() or missing_part(ours) else f"scored {ours} where it crashed"
    if "crash" in reference:
        wanted = {key: value for key, value in reference.items() if key != "crash"}
        return None if None in ours.values() and all(map_agrees(ours, wanted)) else f"{ours} != {reference}"
    return (
        None
        if all(key in ours for key in reference) and all(map_agrees(ours, reference))
        else (f"{ours} != {reference}")
    )


def missing_part(ours):
    """Whether a subset has no example, which the published scorers of boxes divide by."""
    names = [name for name in ours if name.startswith("accuracy__")]
    return bool(names) and len(names) < 4


def golden_files(folder):
    known = []
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text())
        header = content.get("header") if isinstance(content, dict) else None
        if isinstance(header, dict) and header.get("metric") in METRICS:
            known.append(pytest.param(content, id=f"{path.stem}-{len(content['cases'])}-cases"))
    return known


@pytest.mark.parametrize("golden", golden_files(Path(os.environ.get("EYESWAP_GOLDENS") or COMPACT)))
def test_scores_equal_those_of_the_published_scorer(golden):
    function = METRICS[golden["header"]["metric"]]
    found = {case["id"]: mismatch(function, case) for case in golden["cases"]}
    wrong = {name: text[:500] for name, text in found.items() if text}
    assert golden["cases"]
    assert not wrong, f"{len(wrong)} of {len(found)} cases differ"


def test_the_compact_copy_covers_every_metric():
    assert {golden.values[0]["header"]["metric"] for golden in golden_files(COMPACT)} == set(METRICS)
