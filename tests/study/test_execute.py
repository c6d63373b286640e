"""Whole studies, tiny: two arms on a few scenes, with random weights."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from eyeswap.api import ask
from eyeswap.audit.audit import audit
from eyeswap.cli.main import app
from eyeswap.errors import SpecError
from eyeswap.planning.spec import load_study
from eyeswap.results.run import load_runs
from eyeswap.study.execute import run_study

ENCODERS = """
import torch
from eyeswap.backbones import catalog

def vit():
    entry = catalog.entry("digits-vit")
    return entry.build(), entry.geometry

def vmamba():
    entry = catalog.entry("digits-vmamba")
    return entry.build(), entry.geometry
"""

STUDY = """
question: Does a study run from data to scores?
recipe:
  data: {{name: digits, seed: 1, num_train_images: 32, num_val_images: 10, turns: 6}}
  llm: {llm}
  global_batch: 8
  lr: 1e-3
  precision: fp32
  max_text_tokens: 256
arms:
  vit: encoders.py:vit
  vmamba: encoders.py:vmamba
benchmarks: [vqav2, pope, tallyqa, refcoco, ocid-ref]
execution: {{checkpoint_every_s: 0}}
"""

BENCHMARKS = ("vqav2", "pope", "tallyqa", "refcoco", "ocid-ref")


def write_study(folder: Path, llm: Path) -> Path:
    (folder / "encoders.py").write_text(ENCODERS)
    (folder / "tiny.yaml").write_text(STUDY.format(llm=llm))
    return folder / "tiny.yaml"


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def study_file(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), tiny_llm)


@pytest.fixture(scope="module")
def finished(study_file: Path) -> Path:
    return run_study(load_study(study_file), study_file, study_file.parent / "runs", quiet())


def weights(study_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(study_dir)): path.read_bytes()
        for path in study_dir.glob("*/seed-7/model/**/*.safetensors")
    }


def answers(study_dir: Path) -> list[list[object]]:
    columns = ["example_id", "answer", "score", "baseline_score"]
    files = sorted(study_dir.glob("*/seed-7/predictions/*.parquet"))
    return [pq.read_table(path).select(columns).to_pylist() for path in files]


def test_every_run_leaves_its_folder_complete(finished: Path):
    for arm in ("vit", "vmamba"):
        run = finished / arm / "seed-7"
        assert {path.name for path in run.iterdir()} >= {
            "spec.json", "environment.json", "train.jsonl", "model", "predictions", "scores.json",
        }  # fmt: skip
        scores = json.loads((run / "scores.json").read_text())
        assert tuple(scores["benchmarks"]) == BENCHMARKS
        assert set(scores["averages"]) == {"vqa", "localization", "overall"}
        total = sum(benchmark["n"] for benchmark in scores["benchmarks"].values())
        assert scores["averages"]["overall"]["n"] == total > 50
        assert [json.loads(line)["step"] for line in (run / "train.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


def test_arms_differ_in_the_backbone_alone(finished: Path):
    report = audit(load_runs([finished]))
    assert not report.undeclared
    assert {"recipe", "training data", "batch order", "LLM weights", "connector start"} <= {
        fact.title for fact in report.equal
    }
    assert {"backbone", "backbone weights"} <= {fact.title for fact in report.declared}


def test_a_finished_study_is_not_done_again(finished: Path, study_file: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    started = time.perf_counter()
    run_study(load_study(study_file), study_file, finished.parent, quiet())
    assert time.perf_counter() - started < 5
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_another_recipe_in_the_same_folder_is_refused(finished: Path, study_file: Path):
    changed = study_file.parent / "changed" / "tiny.yaml"
    changed.parent.mkdir(exist_ok=True)
    shutil.copy(study_file.parent / "encoders.py", changed.parent)
    changed.write_text(study_file.read_text().replace("lr: 1e-3", "lr: 2e-3"))
    with pytest.raises(SpecError, match="another version"):
        run_study(load_study(changed), changed, finished.parent, quiet())


def test_a_study_killed_at_several_moments_ends_with_the_same_numbers(finished: Path, study_file: Path, tmp_path: Path):
    program = """
import io, sys
from pathlib import Path
from rich.console import Console
from eyeswap.study.execute import run_study
from eyeswap.planning.spec import load_study
file, runs = map(Path, sys.argv[1:])
run_study(load_study(file), file, runs, Console(file=io.StringIO()))
"""
    command = [sys.executable, "-c", program, str(study_file), str(tmp_path / "runs")]
    study_dir = tmp_path / "runs" / "tiny"
    moments = ["data/digits.json", "vit/seed-7/train.jsonl", "vit/seed-7/model", "vmamba/seed-7/checkpoints/step-*"]
    for moment in moments:
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        while not any(study_dir.glob(moment)) and process.poll() is None:
            assert time.monotonic() < deadline, f"{moment} did not appear"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert weights(study_dir) == weights(finished)
    assert answers(study_dir) == answers(finished)


def test_a_run_answers_questions_afterwards(finished: Path):
    image = next((finished / "data" / "download" / "vqa-v2" / "images_val2014").glob("*.jpg"))
    torch.manual_seed(0)
    answer = ask(finished / "vit" / "seed-7", image, "How many digits are there?", max_new_tokens=4)
    assert isinstance(answer.text, str)
    assert answer.box_px is None


def test_the_record_shows_how_training_and_test_ask_for_a_box(finished: Path):
    spec = json.loads((finished / "vit" / "seed-7" / "spec.json").read_text())
    request = "USER: Please provide the bounding box coordinate of the region this sentence describes: "
    assert spec["train_prompt"] == request + "{expression}. ASSISTANT:"
    assert spec["test_prompt"] == request + '"{expression}" ASSISTANT:'
    report = audit(load_runs([finished]))
    assert "prompt-mismatch" in {finding.key for finding in report.warnings}


def test_finished_runs_are_sealed_and_can_be_probed(finished: Path):
    for arm in ("vit", "vmamba"):
        assert (finished / arm / "seed-7" / "seal.json").is_file()
    assert not audit(load_runs([finished])).errors
    for arm in ("vit", "vmamba"):
        for images in ("blanked", "shuffled"):
            result = CliRunner().invoke(app, ["eval", str(finished / arm / "seed-7"), "--images", images])
            assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["collapse", str(finished), "--json"])
    for arm in json.loads(result.stdout):
        (run,) = arm["runs"]
        assert set(run["signs"]["gains"]) == {"best constant box", "blanked images", "shuffled images"}
        assert set(run["signs"]["vqa_gains"]) == {"blanked images", "shuffled images"}
        assert arm["verdict"] in ("collapsed", "cannot tell")  # four steps of training
