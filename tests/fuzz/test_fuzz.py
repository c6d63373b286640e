"""A hundred inputs of each kind that nobody meant to write; `python -m tests.fuzz` reads as many as one likes."""

from __future__ import annotations

import pytest
from tests.fuzz.__main__ import BAD, fuzz
from tests.fuzz.kinds import KINDS, Kind

CASES = {
    "annotations": 30,
    "archive": 70,
    "parquet": 50,
    "study": 50,
    "dense": 30,
    "run-records": 40,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_input_is_read_or_refused_in_one_line(kind: Kind) -> None:
    outcomes = fuzz(kind, CASES.get(kind.name, 100))
    assert not [(number, outcome) for number, outcome in outcomes if outcome.kind in BAD]
    assert any(outcome.kind == "refused" for _, outcome in outcomes) or kind.name == "answers"
