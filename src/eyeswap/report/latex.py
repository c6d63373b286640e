r"""The scores as two LaTeX tables in booktabs style, ready for ``\input`` in a paper.

Needs ``\usepackage{booktabs}``. The best score of a column is bold, scores that the best does not beat with
certainty (adjusted by Holm) are underlined: a reader sees at once which differences are decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from eyeswap.report.compare import Comparison
from eyeswap.report.gather import GROUP_TITLES, Arm, Score, StudyResults
from eyeswap.report.style import count, percent

_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def latex(results: StudyResults, averages: Sequence[Comparison], benchmarks: Sequence[Comparison]) -> str:
    """Return both tables: weighted averages with intervals, then every benchmark."""
    if not results.finished_arms:
        return "% no finished run yet\n"
    first = results.finished_arms[0].scores
    groups = {group: GROUP_TITLES[group] for group in results.groups}
    titles = {one.name: one.title for one in results.benchmarks}
    counts = {group: first.averages[group].n for group in groups}
    average = _table(
        results, {arm.name: arm.scores.averages for arm in results.finished_arms}, groups, counts, averages,
        f"{_text(results.question)} Weighted averages, percent, 95\\% intervals over test images.",
        f"tab:{results.name}-averages", with_interval=True,
    )  # fmt: skip
    by_benchmark = {
        arm.name: {name: one.score for name, one in arm.scores.benchmarks.items()} for arm in results.finished_arms
    }
    single = _table(
        results, by_benchmark, titles, {one.name: one.score.n for one in results.benchmarks}, benchmarks,
        "Every benchmark, percent.", f"tab:{results.name}-benchmarks", with_interval=False,
    )  # fmt: skip
    return f"% \\usepackage{{booktabs}}\n{average}\n{single}"


def _table(
    results: StudyResults,
    scores: dict[str, dict[str, Score]],
    titles: dict[str, str],
    counts: dict[str, int],
    comparisons: Sequence[Comparison],
    caption: str,
    label: str,
    with_interval: bool,
) -> str:
    best = {key: max(scores, key=lambda arm: scores[arm][key].value) for key in titles}
    lines = [
        r"\begin{table}", r"\centering", f"\\caption{{{caption} Bold: best; underlined: not told apart from the best "
        f"after Holm's correction. $n$: questions.}}", f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{l{'r' * len(titles)}}}", r"\toprule",
        _row("", [_text(title) for title in titles.values()]),
        _row("$n$", [f"{counts[key]:,}".replace(",", "{,}") for key in titles]), r"\midrule",
    ]  # fmt: skip
    for arm in results.finished_arms:
        lines.append(_row(_name(arm), [_cell(arm.name, key, scores, best, comparisons) for key in titles]))
        if with_interval:
            intervals = (scores[arm.name][key] for key in titles)
            lines.append(_row("", [rf"{{\scriptsize {percent(s.low)}--{percent(s.high)}}}" for s in intervals]))
    baseline = scores[results.finished_arms[0].name]
    lines += [r"\midrule", _row("trivial baseline", [percent(baseline[key].baseline) for key in titles])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _cell(
    arm: str, key: str, scores: dict[str, dict[str, Score]], best: dict[str, str], comparisons: Sequence[Comparison]
) -> str:
    value = percent(scores[arm][key].value)
    if arm == best[key]:
        return rf"\textbf{{{value}}}"
    pairs = (pair for pair in comparisons if pair.where == key and {pair.ahead, pair.behind} == {arm, best[key]})
    beaten = any(pair.decided for pair in pairs)
    return value if beaten else rf"\underline{{{value}}}"


def _name(arm: Arm) -> str:
    tokens = f", {count(arm.num_tokens)} tokens" if arm.num_tokens else ""
    return _text(f"{arm.name}{tokens}")


def _row(head: str, cells: Sequence[str]) -> str:
    return " & ".join([head, *cells]) + r" \\"


def _text(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in text)
