"""The numbers as tables: on the terminal, in Markdown, as CSV in long form, and as JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eyeswap.report.compare import Comparison
from eyeswap.report.fixed import fact_rows, recipe_rows
from eyeswap.report.gather import GROUP_TITLES, Arm, Run, Score, Scores, StudyResults
from eyeswap.report.style import DASH, color, count, p_value, percent, points, size
from eyeswap.report.verdict import Verdict
from eyeswap.study.audit import AuditReport

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

BENCHMARKS_A_TABLE = 5
BELOW = "†"
FOOTNOTE = f"{BELOW} not above the trivial baseline"
CSV_COLUMNS = (
    *("study", "arm", "seed", "benchmark", "group", "metric", "unit", "n"),
    *("score", "low", "high", "baseline", "gain", "gain_low", "gain_high"),
)


def terminal_table(results: StudyResults) -> Group:
    """Return a rich renderable of at most 80 columns: averages with intervals, then every benchmark."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{results.name}: {results.question}", style="bold")]
    if results.finished_arms:
        benchmarks = [one.name for one in results.benchmarks]
        starts = range(0, len(benchmarks), BENCHMARKS_A_TABLE)
        parts.append(_average_table(results))
        parts += [_benchmark_table(results, benchmarks[start : start + BENCHMARKS_A_TABLE]) for start in starts]
        parts.append(Text(f"Percent, 95% intervals. {FOOTNOTE}.", style="dim"))
    missing = [f"{arm.name}: {'; '.join(arm.missing)}" for arm in results.arms if arm.missing]
    return Group(*parts, *(Text(line, style="yellow") for line in missing))


def _average_table(results: StudyResults) -> Table:
    first = results.finished_arms[0].scores
    table = _empty_table()
    for group in results.groups:
        _add_number(table, f"{GROUP_TITLES[group]}\nn = {count(first.averages[group].n)}")
    for title in ("invalid\nboxes", "size\nat tap", "\ntokens"):
        _add_number(table, title)
    for arm, name in _named(results):
        table.add_row(name, *(_terminal_cell(arm.scores.averages[group]) for group in results.groups), *_about(arm))
    table.add_section()
    table.add_row("baseline", *(percent(first.averages[group].baseline) for group in results.groups))
    return table


def _benchmark_table(results: StudyResults, names: list[str]) -> Table:
    first = results.finished_arms[0].scores
    table = _empty_table()
    for name in names:
        _add_number(table, f"{first.benchmarks[name].title}\nn = {count(first.benchmarks[name].score.n)}")
    for arm, arm_name in _named(results):
        table.add_row(arm_name, *(_with_mark(arm.scores.benchmarks[name].score) for name in names))
    table.add_section()
    table.add_row("baseline", *(percent(first.benchmarks[name].score.baseline) for name in names))
    return table


def _empty_table() -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", overflow="fold")  # the one column that gives way on a narrow terminal
    return table


def _add_number(table: Table, title: str) -> None:
    table.add_column(title, justify="right", no_wrap=True)


def _named(results: StudyResults) -> list[tuple[Arm, Text]]:
    """Return the finished arms with their names in their colours."""
    from rich.text import Text

    return [(arm, Text(arm.name, style=color(i))) for i, arm in enumerate(results.arms) if arm.finished]


def markdown(results: StudyResults, verdict: Verdict, comparisons: list[Comparison], audit: AuditReport | None) -> str:
    """Return the whole report as Markdown."""
    parts = [f"# {results.question}", f"Study `{results.name}`.", f"**Verdict.** {verdict.headline}"]
    parts.append("\n".join(f"- {finding.text}" for finding in verdict.findings))
    if results.finished_arms:
        parts += ["## Scores", _markdown_scores(results)]
    if comparisons:
        parts += ["## Pairs of arms", _markdown_pairs(comparisons)]
    parts += ["## Held fixed", _markdown_fixed(results, audit)]
    return "\n\n".join(parts) + "\n"


def long_csv(results: StudyResults) -> str:
    """Return one line for each run and benchmark or weighted average, scores in percent."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for arm in results.finished_arms:
        for run in arm.runs:
            writer.writerows(_csv_rows(results.name, run))
    return text.getvalue()


def as_json(
    results: StudyResults,
    verdict: Verdict,
    averages: list[Comparison],
    benchmarks: list[Comparison],
    audit: AuditReport | None,
) -> dict[str, Any]:
    """Return everything the report says, for programs; scores in percent."""
    return {
        "study": results.name,
        "question": results.question,
        "unit": "%",
        "verdict": asdict(verdict),
        "arms": {arm.name: _arm_json(arm) for arm in results.arms},
        "comparisons": {
            "averages": [asdict(pair) | {"decided": pair.decided} for pair in averages],
            "benchmarks": [asdict(pair) | {"decided": pair.decided} for pair in benchmarks],
        },
        "audit": audit.as_dict() if audit else None,
    }


def _arm_json(arm: Arm) -> dict[str, Any]:
    if not arm.finished:
        return {"finished": False, "missing": arm.missing}
    return {
        "finished": True,
        "missing": arm.missing,
        "seeds": [run.seed for run in arm.runs],
        "backbone": arm.backbone,
        "num_tokens": arm.num_tokens,
        "invalid_boxes": arm.scores.invalid_boxes,
        **asdict(arm.scores),
    }


def _csv_rows(study: str, run: Run) -> list[dict[str, Any]]:
    scores = run.scores or Scores({}, {})
    head = {"study": study, "arm": run.arm, "seed": run.seed, "unit": "%"}
    rows = [
        head | {"benchmark": one.name, "group": one.group, "metric": one.metric} | _csv_score(one.score)
        for one in scores.benchmarks.values()
    ]
    return rows + [
        head | {"benchmark": "average", "group": group, "metric": "weighted by n"} | _csv_score(score)
        for group, score in scores.averages.items()
    ]


def _csv_score(score: Score) -> dict[str, Any]:
    return {
        "n": score.n,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "baseline": score.baseline,
        "gain": score.gain,
        "gain_low": score.gain_low,
        "gain_high": score.gain_high,
    }


def _markdown_scores(results: StudyResults) -> str:
    first = results.finished_arms[0].scores
    titles = [f"{GROUP_TITLES[group]}" for group in results.groups] + [one.title for one in results.benchmarks]
    counts = [score.n for score in first.averages.values()] + [one.score.n for one in results.benchmarks]
    header = ["arm", *titles, "invalid boxes", "parameters at tap", "tokens"]
    rows = [["n", *map(count, counts), "", "", ""]]
    for arm in results.finished_arms:
        rows.append([arm.name, *(_with_interval(score) for score in _all_scores(arm.scores)), *_about(arm)])
    rows.append(["trivial baseline", *(percent(score.baseline) for score in _all_scores(first)), "", "", ""])
    note = f"Percent, with 95% intervals that resample images. {FOOTNOTE}."
    return f"{_pipes(header, rows)}\n\n{note}"


def _markdown_pairs(comparisons: list[Comparison]) -> str:
    rows = [
        [
            GROUP_TITLES[pair.where],
            f"{pair.ahead} over {pair.behind}",
            f"{points(pair.value)} [{points(pair.low)}, {points(pair.high)}]",
            p_value(pair.p),
            "decided" if pair.decided else "not decided",
        ]
        for pair in comparisons
    ]
    note = "Points, with 95% intervals of the paired difference; p-values are adjusted by Holm over this table."
    return f"{_pipes(['average', 'pair', 'difference', 'p', 'result'], rows)}\n\n{note}"


def _markdown_fixed(results: StudyResults, audit: AuditReport | None) -> str:
    recipe = "Recipe:\n\n" + "\n".join(f"- `{field}`: {value}" for field, value in recipe_rows(results))
    if audit is None:
        return recipe
    rows = [
        [
            row.title,
            row.verdict,
            "; ".join(f"{value} ({runs})" if runs else value for value, runs in row.values),
        ]
        for row in fact_rows(audit)
    ]
    warnings = "\n".join(f"- {warning}" for warning in audit.warnings)
    return "\n\n".join(part for part in (_pipes(["what", "between runs", "value"], rows), warnings, recipe) if part)


def _pipes(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _all_scores(scores: Scores) -> list[Score]:
    return [*scores.averages.values(), *(one.score for one in scores.benchmarks.values())]


def _about(arm: Arm) -> tuple[str, str, str]:
    """Return invalid-box rate, parameters at the tap and tokens, as text."""
    invalid, tokens = arm.scores.invalid_boxes, arm.num_tokens
    return (
        DASH if invalid is None else percent(invalid),
        size(arm.num_parameters),
        DASH if tokens is None else count(tokens),
    )


def _terminal_cell(score: Score) -> Text:
    from rich.text import Text

    return Text.assemble(_with_mark(score), "\n", (f"{percent(score.low)}{DASH}{percent(score.high)}", "dim"))


def _with_interval(score: Score) -> str:
    return f"{_with_mark(score)} [{percent(score.low)}, {percent(score.high)}]"


def _with_mark(score: Score) -> str:
    return percent(score.value) + ("" if score.beats_baseline else BELOW)
