"""Whole studies, tiny: two arms on a few scenes, with random weights; on a machine whose names must not get out."""

import getpass
import io
import json
import platform
import shutil
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from tests.tiny_study import BENCHMARKS, write_tiny_study
from typer.testing import CliRunner

from eyeswap.api import ask, load_vlm
from eyeswap.audit.audit import audit
from eyeswap.cli.main import app
from eyeswap.errors import SpecError
from eyeswap.planning.spec import load_study
from eyeswap.report import analyse, write_report
from eyeswap.results.archive import export_study, import_study
from eyeswap.results.run import load_runs
from eyeswap.study.execute import run_study

MARKS = ("jane-doe-home", "jane-doe-user", "jane-doe-host", "jane-doe-secret")


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module", autouse=True)
def marked_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home, a user, a host and an environment variable whose names can be searched for."""
    home = tmp_path_factory.mktemp("machine") / MARKS[0]
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("USER", "LOGNAME", "USERNAME"):
            patch.setenv(name, MARKS[1])
        patch.setattr(socket, "gethostname", lambda: MARKS[2])
        patch.setattr(platform, "node", lambda: MARKS[2])
        patch.setenv("EYESWAP_SECRET_TOKEN", MARKS[3])
        yield home


@pytest.fixture(scope="module")
def study_file(tiny_llm: Path, marked_machine: Path) -> Path:
    llm = marked_machine / "language models" / "tiny-llm"
    shutil.copytree(tiny_llm, llm)
    return write_tiny_study(marked_machine / "study", llm)


@pytest.fixture(scope="module")
def finished(study_file: Path) -> Path:
    return run_study(load_study(study_file), study_file, study_file.parent / "runs", quiet())


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


def test_a_run_answers_questions_afterwards(finished: Path):
    image = next((finished / "data" / "download" / "vqa-v2" / "images_val2014").glob("*.jpg"))
    torch.manual_seed(0)
    model = load_vlm(finished / "vit" / "seed-7", trust_remote_code=True)
    answer = ask(model, image, "How many digits are there?", max_new_tokens=4)
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
            result = CliRunner().invoke(
                app, ["eval", str(finished / arm / "seed-7"), "--images", images, "--trust-code"]
            )
            assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["collapse", str(finished), "--json"])
    for arm in json.loads(result.stdout):
        (run,) = arm["runs"]
        assert set(run["signs"]["gains"]) == {"best constant box", "blanked images", "shuffled images"}
        assert set(run["signs"]["vqa_gains"]) == {"blanked images", "shuffled images"}
        assert arm["verdict"] in ("collapsed", "cannot tell")  # four steps of training


def unpacked(path: Path) -> dict[str, bytes]:
    """Return every byte of an archive as text would be found in it: decompressed, parquet columns as JSON too."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for name in [name for name in contents if name.endswith(".parquet")]:
        contents[f"{name} as text"] = json.dumps(pq.read_table(io.BytesIO(contents[name])).to_pylist()).encode()
    return contents


def test_nothing_that_leaves_tells_of_the_machine(finished: Path, marked_machine: Path, tmp_path: Path):
    report = write_report(analyse(finished))
    archive = tmp_path / "tiny.eyeswap.zip"
    export_study(finished, archive)
    contents = unpacked(archive) | {str(path): path.read_bytes() for path in report.values()}
    contents["archive"] = archive.read_bytes()
    assert len(contents) > 20
    marks = [*MARKS, str(finished.parent), str(marked_machine.parent), getpass.getuser(), sys.prefix]
    told = {name: mark for name, content in contents.items() for mark in marks if mark.encode() in content}
    assert not told
    assert not [name for name, content in contents.items() if b"encoders.py" in content and b"/encoders.py" in content]


def test_what_has_left_verifies_and_comes_home(finished: Path, tmp_path: Path):
    archive = tmp_path / "tiny.eyeswap.zip"
    export_study(finished, archive)
    done = import_study(archive, tmp_path / "elsewhere")
    assert done.added == ["vit/seed-7", "vmamba/seed-7"]
    assert not audit(load_runs([done.folder])).errors
    assert import_study(archive, finished.parent).known == ["vit/seed-7", "vmamba/seed-7"]
    again = tmp_path / "again.eyeswap.zip"
    export_study(done.folder, again)
    first, second = ({n: c for n, c in unpacked(path).items() if "/seed-7/" in n} for path in (archive, again))
    assert first == second
