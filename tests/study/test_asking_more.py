"""A study of trained runs is asked more, less or otherwise without training; only another model is refused."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from eyeswap.audit.audit import audit
from eyeswap.errors import RunError, SpecError
from eyeswap.evaluation.generate import Generator
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import load_study
from eyeswap.report.analysis.study import gather
from eyeswap.results.run import load_runs
from eyeswap.study import backbones, execute
from eyeswap.study.execute import run_study

ENCODERS = """
from eyeswap.backbones import catalog

def vit():
    entry = catalog.entry("digits-vit")
    return entry.build(), entry.geometry
"""

STUDY = """
question: What is asked of trained runs?
recipe:
  data: {{name: digits, seed: 1, num_train_images: 8, num_val_images: 10, turns: 3}}
  llm: {llm}
  global_batch: 8
  lr: {lr}
  precision: fp32
  max_text_tokens: 256
arms:
  vit: encoders.py:vit
  maxvit: digits-maxvit
benchmarks: [{benchmarks}]
seeds: [7, 8]
{subset}
"""
ARMS = ("vit", "maxvit")


class Lab:
    """A study file, its runs, and what carrying it out did."""

    def __init__(self, root: Path, llm: Path) -> None:
        self.root, self.llm = root, llm
        self.trained: list[str] = []
        self.num_asked = 0

    def study(self, benchmarks: str = "pope, ocid-ref", lr: float = 1e-3, subset: int | None = 2) -> Path:
        (self.root / "encoders.py").write_text(ENCODERS, encoding="utf-8")
        line = "" if subset is None else f"subset: {subset}"
        text = STUDY.format(llm=self.llm, lr=lr, benchmarks=benchmarks, subset=line)
        (self.root / "more.yaml").write_text(text, encoding="utf-8")
        return self.root / "more.yaml"

    def run(self, file: Path) -> Path:
        self.trained, self.num_asked = [], 0
        return run_study(load_study(file), file, self.root / "runs", Console(file=io.StringIO()))

    def unasked(self, file: Path) -> list[list[str]]:
        return [run.unasked() for run in plan_runs(load_study(file), self.root / "runs")]


@pytest.fixture(scope="module")
def trained(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two arms and two seeds, trained and asked two benchmarks."""
    lab = Lab(tmp_path_factory.mktemp("more"), tmp_path_factory.mktemp("llm") / "tiny")
    shutil.copytree(tiny_llm, lab.llm)
    loads: list[str] = []
    plain = backbones.load_backbone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load_backbone", lambda *what, **how: loads.append(what[0]) or plain(*what, **how))
        lab.run(lab.study())
    assert len(loads) == len(ARMS)  # once for each arm, not for each seed
    return lab


@pytest.fixture
def lab(trained: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The same, all of it moved to folders of its own; what is trained and asked is counted."""
    lab = Lab(tmp_path / "more", tmp_path / "llm")
    shutil.copytree(trained.root, lab.root)
    shutil.copytree(trained.llm, lab.llm)
    plain = Generator.answer

    def answer(self: Generator, tokens, questions):
        lab.num_asked += sum(map(len, questions))
        return plain(self, tokens, questions)

    def train(run, *_: object) -> None:
        lab.trained.append(run.arm)
        raise RunError("nothing is to be trained")

    monkeypatch.setattr(Generator, "answer", answer)
    monkeypatch.setattr(execute, "train_run", train)
    return lab


def rows(folder: Path, name: str) -> list[dict[str, object]]:
    return pq.read_table(folder / "vit" / "seed-7" / "predictions" / f"{name}.parquet").to_pylist()


def test_a_third_benchmark_is_asked_and_nothing_is_trained(lab: Lab) -> None:
    before = rows(lab.root / "runs" / "more", "pope")
    file = lab.study("pope, ocid-ref, tallyqa")
    assert lab.unasked(file) == [["tallyqa"]] * 4
    folder = lab.run(file)
    assert lab.trained == []
    assert lab.num_asked == sum(len(rows(folder, "tallyqa")) for _ in range(4)) > 0
    assert rows(folder, "pope") == before
    report = audit(load_runs([folder]))
    assert not report.undeclared
    assert not report.errors
    scores = json.loads((folder / "vit" / "seed-7" / "scores.json").read_text())
    assert list(scores["benchmarks"]) == ["pope", "ocid-ref", "tallyqa"]
    record = json.loads((folder / "vit" / "seed-7" / "spec.json").read_text())
    assert record["benchmarks"] == ["pope", "ocid-ref", "tallyqa"]
    assert set(record["observed"]["canvas"]) == {"training", "pope", "ocid-ref", "tallyqa"}
    assert (folder / "vit" / "seed-7" / "seal.json").is_file()
    lab.run(file)
    assert lab.num_asked == 0


def test_a_benchmark_that_the_study_has_no_longer_is_kept_and_not_reported(lab: Lab) -> None:
    folder = lab.run(lab.study("ocid-ref"))
    assert (lab.trained, lab.num_asked) == ([], 0)
    assert "pope" in json.loads((folder / "vit" / "seed-7" / "scores.json").read_text())["benchmarks"]
    results = gather(folder)
    assert [one.name for one in results.benchmarks] == ["ocid-ref"]
    assert results.groups == ["localization", "overall"]
    averages = results.arms[0].scores.averages
    assert averages["overall"].n == averages["localization"].n == len(rows(folder, "ocid-ref")) * 1
    assert not audit(load_runs([folder])).undeclared
    lab.run(lab.study("pope, ocid-ref"))  # and back again
    assert lab.num_asked == 0
    assert [one.name for one in gather(folder).benchmarks] == ["pope", "ocid-ref"]


def test_of_a_larger_subset_only_what_is_missing_is_asked(lab: Lab) -> None:
    small = {name: rows(lab.root / "runs" / "more", name) for name in ("pope", "ocid-ref")}
    folder = lab.run(lab.study(subset=4))
    assert lab.trained == []
    for name, before in small.items():
        answers = {row["example_id"]: row for row in rows(folder, name)}
        assert len(answers) > len(before)
        for row in before:  # kept as they were, latency included
            assert answers[row["example_id"]] == row
    assert lab.num_asked == 4 * sum(len(rows(folder, name)) - len(before) for name, before in small.items())
    lab.run(lab.study(subset=2))
    assert lab.num_asked == 0
    assert {name: rows(folder, name) for name in small} == small


@pytest.mark.parametrize("change", ["lr", "encoder", "llm"])
def test_another_model_is_refused_with_the_field_and_both_values(lab: Lab, change: str) -> None:
    file = lab.study(lr=2e-3 if change == "lr" else 1e-3)
    if change == "encoder":
        with (lab.root / "encoders.py").open("a", encoding="utf-8") as source:
            source.write("# edited\n")
    elif change == "llm":
        with (lab.llm / "eyeswap.json").open("a", encoding="utf-8") as source:
            source.write("\n")
    words = {
        "lr": r"recipe\.lr was 0\.001 and is 0\.002;",
        "encoder": r"weights\.encoder_file was sha256 [0-9a-f]{12} and is sha256 [0-9a-f]{12};",
        "llm": r"weights\.llm was sha256 [0-9a-f]{12} and is sha256 [0-9a-f]{12};",
    }
    with pytest.raises(SpecError, match=words[change]):
        lab.run(file)
    assert (lab.trained, lab.num_asked) == ([], 0)


def test_nothing_more_is_asked_of_a_run_whose_files_were_changed(lab: Lab) -> None:
    log = lab.root / "runs" / "more" / "vit" / "seed-7" / "train.jsonl"
    log.write_text(log.read_text() + "{}\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"1 of 4 runs failed: vit/seed-7; .*finished run have changed: train\.jsonl"):
        lab.run(lab.study("pope, ocid-ref, tallyqa"))
