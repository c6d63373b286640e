"""The report on a terminal: the verdict in words, then averages and benchmarks, at most 80 columns wide."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.boxes import frames_note
from eyeswap.report.analysis.study import GROUP_TITLES
from eyeswap.report.analysis.verdict import spreads_in_words
from eyeswap.report.style import BELOW, BELOW_NOTE, DASH, color, count, percent, size
from eyeswap.results.scores import Score

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

BENCHMARKS_PER_TABLE = 5
STYLES = {"best": "bold", "level": "underline", "behind": ""}


def terminal_report(analysis: Analysis) -> Group:
    """Return a rich renderable of at most 80 columns: verdict, averages with intervals, every benchmark."""
    from rich.console import Group
    from rich.text import Text

    results = analysis.results
    parts: list[RenderableType] = [Text(f"{results.name}: {results.question}", style="dim")]
    parts += [_in_colour(analysis, analysis.verdict.headline, "bold"), Text("")]
    for finding in analysis.verdict.findings:
        if finding.kind != "note":
            sign = {"decided": "+", "open": "?", "runs": "~", "warning": "!"}[finding.kind]
            parts.append(Text(f"{sign} ").append_text(_in_colour(analysis, finding.text)))
    if results.finished_arms:
        names = [benchmark.name for benchmark in results.benchmarks]
        starts = range(0, len(names), BENCHMARKS_PER_TABLE)
        parts.append(_average_table(analysis))
        parts += [_benchmark_table(analysis, names[start : start + BENCHMARKS_PER_TABLE]) for start in starts]
        marks = "Bold: best; underlined: not told apart from the best. " if analysis.averages else ""
        note = frames_note(analysis.grounding)
        spread = f" ({spreads_in_words(analysis.seeds, results.groups)})" if analysis.seeds else ""
        unit = f"Percent, 95% intervals over {analysis.covered}{spread}."
        parts.append(Text(f"{unit} {marks}{BELOW} {BELOW_NOTE}. {note}".rstrip(), style="dim"))
    return Group(*parts)


def _average_table(analysis: Analysis) -> Table:
    results = analysis.results
    first = results.finished_arms[0].scores
    table = _empty_table()
    for group in results.groups:
        _add_number(table, f"{GROUP_TITLES[group]}\nn = {count(first.averages[group].n)}")
    for title in ("invalid\nboxes", "size\nat tap", "\ntokens"):
        _add_number(table, title)
    for index, arm in enumerate(results.arms):
        if not arm.finished:
            continue
        scores = [_with_interval(analysis, group, arm.name, arm.scores.averages[group]) for group in results.groups]
        invalid, tokens = arm.scores.invalid_boxes, arm.num_tokens
        backbone = (DASH if invalid is None else percent(invalid), size(arm.num_parameters))
        table.add_row(_name(arm.name, index), *scores, *backbone, DASH if tokens is None else count(tokens))
    table.add_section()
    table.add_row("baseline", *(percent(first.averages[group].baseline) for group in results.groups))
    return table


def _benchmark_table(analysis: Analysis, names: list[str]) -> Table:
    results = analysis.results
    first = results.finished_arms[0].scores
    table = _empty_table()
    for name in names:
        _add_number(table, f"{first.benchmarks[name].title}\nn = {count(first.benchmarks[name].score.n)}")
    for index, arm in enumerate(results.arms):
        if arm.finished:
            scores = [_marked(analysis, name, arm.name, arm.scores.benchmarks[name].score) for name in names]
            table.add_row(_name(arm.name, index), *scores)
    table.add_section()
    table.add_row("baseline", *(percent(first.benchmarks[name].score.baseline) for name in names))
    return table


def _empty_table() -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", overflow="fold")  # the only column that shrinks on a narrow terminal
    return table


def _add_number(table: Table, title: str) -> None:
    table.add_column(title, justify="right", no_wrap=True)


def _name(name: str, index: int) -> Text:
    from rich.text import Text

    return Text(name, style=color(index))


def _marked(analysis: Analysis, where: str, arm: str, score: Score) -> Text:
    from rich.text import Text

    return Text(
        percent(score.value) + ("" if score.beats_baseline else BELOW), style=STYLES[analysis.standing(where, arm)]
    )


def _with_interval(analysis: Analysis, where: str, arm: str, score: Score) -> Text:
    from rich.text import Text

    bounds = (f"{percent(score.low)}{DASH}{percent(score.high)}", "dim")
    return Text.assemble(_marked(analysis, where, arm, score), "\n", bounds)


def _in_colour(analysis: Analysis, text: str, style: str = "") -> Text:
    """Return a text with the arm names, between ``**``, in the arms' colours."""
    from rich.text import Text

    index_of = {arm.name: index for index, arm in enumerate(analysis.results.arms)}
    coloured = Text(style=style)
    for position, part in enumerate(re.split(r"\*\*(.+?)\*\*", text)):
        coloured.append(part, style=color(index_of[part]) if position % 2 and part in index_of else "")
    return coloured
