"""Machine-readable results: scores as CSV in long format, and everything in the report as JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.pairs import Comparison
from eyeswap.report.analysis.published import PublishedComparison
from eyeswap.report.analysis.study import RECORD_KEYS, Arm, StudyResults, score_records
from eyeswap.report.analysis.tuning import Tuning


def long_csv(results: StudyResults) -> str:
    """Return one line per run and benchmark or weighted average, scores in percent."""
    text = io.StringIO()
    writer = csv.DictWriter(text, RECORD_KEYS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(score_records(results))
    return text.getvalue()


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Return everything in the report as JSON content; scores in percent, differences in points."""
    results = analysis.results
    return {
        "study": results.name,
        "question": results.question,
        "unit": "%",
        "margin": analysis.margin,
        "seed_sd": {where: asdict(spread) for where, spread in analysis.seeds.items()},
        "verdict": asdict(analysis.verdict),
        "arms": {arm.name: _arm_json(arm) for arm in results.arms},
        "comparisons": {
            "averages": [_pair_json(pair) for pair in analysis.averages],
            "benchmarks": [_pair_json(pair) for pair in analysis.benchmarks],
        },
        "ranks": {group: {arm: asdict(rank) for arm, rank in ranks.items()} for group, ranks in analysis.ranks.items()},
        "predictors": [asdict(predictor) for predictor in analysis.predictors],
        "budgets": [asdict(budget) for budget in analysis.budgets],
        "tuning": None if analysis.tuning is None else _tuning_json(analysis.tuning),
        "grounding": [asdict(grounding) for grounding in analysis.grounding],
        "collapse": [diagnosis.as_dict() for diagnosis in analysis.collapse],
        "published": [_published_json(comparison) for comparison in analysis.published],
        "profile": [asdict(cell) for cell in analysis.profile],
        "audit": analysis.audit.as_dict() if analysis.audit else None,
    }


def _published_json(comparison: PublishedComparison) -> dict[str, Any]:
    return asdict(comparison) | {"result": comparison.result.as_dict(), "in_words": comparison.in_words}


def _tuning_json(tuning: Tuning) -> dict[str, Any]:
    arms = [{**vars(arm), "trials": [trial.model_dump() for trial in arm.trials]} for arm in tuning.arms]
    scores = [{"matched": arm.matched.as_json(), "tuned": arm.tuned.as_json()} for arm in tuning.arms]
    return {**vars(tuning), "arms": [arm | score for arm, score in zip(arms, scores, strict=True)]}


def _pair_json(pair: Comparison) -> dict[str, Any]:
    test = pair.mcnemar
    counts = test and {"only_ahead": test.only_first, "only_behind": test.only_second, "p": test.p}
    words = {"told_apart": pair.told_apart, "decided": pair.decided, "in_words": pair.in_words}
    return asdict(pair) | {"mcnemar": counts} | words


def _arm_json(arm: Arm) -> dict[str, Any]:
    if not arm.finished:
        return {"finished": False, "missing": arm.missing}
    return {
        "finished": True,
        "missing": arm.missing,
        "seeds": [run.seed for run in arm.runs],
        "backbone": arm.backbone.model_dump(mode="json", exclude_unset=True),
        "objective": arm.objective,
        "num_tokens": arm.num_tokens,
        "invalid_boxes": arm.scores.invalid_boxes,
        **asdict(arm.scores),
    }
