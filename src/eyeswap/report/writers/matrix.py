"""The differences of all pairs of arms as a square: row minus column, with what is decided about each."""

from __future__ import annotations

from dataclasses import dataclass

from eyeswap.report.analysis.analysis import Analysis

MARKS = {
    "decided": "*", "equivalent": "=", "no worse": "\N{ALMOST EQUAL TO}", "not decided": "",
    "higher in these runs": "*", "not told apart": "",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One arm minus another, in points.

    Attributes:
        value: the difference.
        low: lower end of its 95% interval.
        high: upper end.
        in_words: as `eyeswap.report.analysis.pairs.Comparison.in_words`.
        strength: size of the difference against the largest of the square, 0..1.
    """

    value: float
    low: float
    high: float
    in_words: str
    strength: float

    @property
    def mark(self) -> str:
        """The sign behind the number."""
        return MARKS[self.in_words]


def difference_matrix(analysis: Analysis, where: str) -> list[tuple[str, list[Cell | None]]]:
    """Return one row an arm, the best first, with a cell for each arm in the same order; None on the diagonal."""
    arms = sorted(analysis.results.finished_arms, key=lambda arm: -arm.scores.averages[where].value)
    names = [arm.name for arm in arms]
    largest = max((pair.value for pair in analysis.averages if pair.where == where), default=0.0) or 1.0
    return [(row, [_cell(analysis, where, row, column, largest) for column in names]) for row in names]


def _cell(analysis: Analysis, where: str, row: str, column: str, largest: float) -> Cell | None:
    pair = analysis.pair(where, row, column)
    if row == column or pair is None:
        return None
    strength = pair.value / largest
    if pair.ahead == row:
        return Cell(pair.value, pair.low, pair.high, pair.in_words, strength)
    return Cell(-pair.value, -pair.high, -pair.low, pair.in_words, strength)
