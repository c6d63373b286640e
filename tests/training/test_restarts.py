"""Trainings that torchrun starts again after a process was killed."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import losses

pytestmark = pytest.mark.extended

SCRIPT = Path(__file__).with_name("restarted_training.py")


def torchrun(llm: Path, folder: Path, fault: str, *options: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", *options, SCRIPT, llm, folder, fault]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def tries(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "tries.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = tmp_path_factory.mktemp("restarts") / "whole"
    assert torchrun(tiny_llm, folder, "", "--standalone", "--nproc-per-node=2").wait(120) == 0, log(folder)
    return losses(folder)


def log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")


def test_processes_that_torchrun_starts_again_continue_exactly(tiny_llm: Path, tmp_path: Path, whole: list[float]):
    folder = tmp_path / "killed"
    options = ("--standalone", "--nproc-per-node=2", "--max-restarts=2")
    assert torchrun(tiny_llm, folder, "killed", *options).wait(200) == 0, log(folder)
    assert tries(folder) == [2, 2, 2]
    assert losses(folder) == whole
