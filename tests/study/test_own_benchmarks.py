"""A study may list benchmarks of one's own by the path of their YAML file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyeswap.errors import SpecError
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import Study, load_study
from eyeswap.study.status import status_of

STUDY = """\
question: Which one reads signs?
recipe: {data: digits, llm: digits-llm}
arms: {vit: digits-vit}
benchmarks: [pope, signs/my-signs.yaml]
"""


def write(folder: Path, text: str = STUDY, answer: int = 3) -> Path:
    (folder / "signs").mkdir(exist_ok=True)
    row = {"id": 1, "image": "a.jpg", "question": "How fast?", "answer": answer}
    (folder / "signs" / "rows.jsonl").write_text(json.dumps(row))
    (folder / "signs" / "my-signs.yaml").write_text("{metric: number, data: rows.jsonl}")
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_the_path_is_relative_to_the_study_and_stored_whole(tmp_path):
    study = load_study(write(tmp_path))
    file = str((tmp_path / "signs" / "my-signs.yaml").resolve())
    assert study.benchmarks == ("pope", file)
    assert Study.model_validate(study.model_dump()).benchmarks == study.benchmarks


def test_other_rows_are_other_questions_for_the_same_model(tmp_path):
    (before,) = plan_runs(load_study(write(tmp_path)), tmp_path / "runs")
    assert status_of(before).num_finished == 0
    first, asked = before.digest, [benchmark.identity for benchmark in before.benchmarks]
    (same,) = plan_runs(load_study(write(tmp_path)), tmp_path / "runs")
    assert [benchmark.identity for benchmark in same.benchmarks] == asked
    (after,) = plan_runs(load_study(write(tmp_path, answer=4)), tmp_path / "runs")
    assert [benchmark.identity for benchmark in after.benchmarks] != asked
    assert after.digest == same.digest == first


@pytest.mark.parametrize(
    ("benchmarks", "message"),
    [
        ("[signs/none.yaml]", r"none.yaml: no such file"),
        ("[signs/my-signs.yaml, signs/my-signs.yaml]", r'"my-signs" is listed twice'),
        ("[my-signs]", r'unknown benchmark "my-signs"'),
    ],
)
def test_a_mistake_names_study_and_field(tmp_path, benchmarks, message):
    path = write(tmp_path, STUDY.replace("[pope, signs/my-signs.yaml]", benchmarks))
    with pytest.raises(SpecError, match=rf"mine.yaml: benchmarks: .*{message}"):
        load_study(path)


def test_a_bad_row_is_told_when_the_study_is_read(tmp_path):
    path = write(tmp_path)
    (tmp_path / "signs" / "rows.jsonl").write_text('{"id": 1, "image": "a.jpg", "question": "?", "answer": "fast"}')
    with pytest.raises(SpecError, match=r"benchmarks: .*rows.jsonl: row 1: field 'answer' must be a number"):
        load_study(path)
