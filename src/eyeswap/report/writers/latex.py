r"""The scores as two LaTeX tables in booktabs style, ready for ``\input`` in a paper.

Needs ``\usepackage{booktabs}``. The best score of a column is bold; scores that are not significantly lower (adjusted
by Holm) are underlined, so that readers see at once which differences are decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from eyeswap.console import visible
from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.boxes import frames_note
from eyeswap.report.analysis.study import GROUP_TITLES, Arm
from eyeswap.report.style import count, percent
from eyeswap.results.scores import Score

_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip
MAX_IN_ONE_COLUMN = 6  # tables with more score columns span both columns of the page
_STYLES = {"best": r"\textbf{%s}", "level": r"\underline{%s}", "behind": "%s"}


def latex(analysis: Analysis) -> str:
    """Return both tables: weighted averages with intervals, then every benchmark."""
    results = analysis.results
    if not results.finished_arms:
        return "% no finished run yet\n"
    first = results.finished_arms[0].scores
    groups = {group: GROUP_TITLES[group] for group in results.groups}
    titles = {benchmark.name: benchmark.title for benchmark in results.benchmarks}
    average = _table(
        analysis, {arm.name: arm.scores.averages for arm in results.finished_arms}, groups,
        {group: first.averages[group].n for group in groups},
        f"{_text(results.question)} Weighted averages, percent, 95\\% intervals over {analysis.covered}.",
        f"tab:{results.name}-averages", with_interval=True,
    )  # fmt: skip
    by_benchmark = {
        arm.name: {name: entry.score for name, entry in arm.scores.benchmarks.items()} for arm in results.finished_arms
    }
    single = _table(
        analysis, by_benchmark, titles, {benchmark.name: benchmark.score.n for benchmark in results.benchmarks},
        "Every benchmark, percent.", f"tab:{results.name}-benchmarks", with_interval=False,
    )  # fmt: skip
    return f"% \\usepackage{{booktabs}}\n{average}\n{single}"


def _table(
    analysis: Analysis,
    scores: dict[str, dict[str, Score]],
    titles: dict[str, str],
    counts: dict[str, int],
    caption: str,
    label: str,
    with_interval: bool,
) -> str:
    arms = analysis.results.finished_arms
    environment, tight = (
        ("table*", r"\setlength{\tabcolsep}{3.5pt}") if len(titles) > MAX_IN_ONE_COLUMN else ("table", "")
    )
    marks = "Bold: best; underlined: not told apart from the best after Holm's correction. $n$: questions."
    marks = f"{marks} {frames_note(analysis.grounding)}".rstrip()
    lines = [
        f"\\begin{{{environment}}}", rf"\centering\small{tight}", f"\\caption{{{caption} {marks}}}",
        f"\\label{{{label}}}", f"\\begin{{tabular}}{{l{'r' * len(titles)}}}", r"\toprule",
        _row("", [_text(title) for title in titles.values()]),
        _row("$n$", [f"{counts[key]:,}".replace(",", "{,}") for key in titles]), r"\midrule",
    ]  # fmt: skip
    for arm in arms:
        cells = [_STYLES[analysis.standing(key, arm.name)] % percent(scores[arm.name][key].value) for key in titles]
        lines.append(_row(_name(arm), cells))
        if with_interval:
            intervals = (scores[arm.name][key] for key in titles)
            lines.append(_row("", [rf"{{\scriptsize {percent(s.low)}--{percent(s.high)}}}" for s in intervals]))
    baseline = scores[arms[0].name]
    lines += [r"\midrule", _row("trivial baseline", [percent(baseline[key].baseline) for key in titles])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"\\end{{{environment}}}", ""])


def _name(arm: Arm) -> str:
    tokens = f", {count(arm.num_tokens)} tokens" if arm.num_tokens else ""
    return _text(f"{arm.name}{tokens}")


def _row(head: str, cells: Sequence[str]) -> str:
    return " & ".join([head, *cells]) + r" \\"


def _text(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in visible(text))
