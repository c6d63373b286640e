"""The training log goes to train.jsonl always, and to trackers when asked for."""

import json
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
from tiny_run import run

from eyeswap.errors import EnvironmentProblem
from eyeswap.recipe import Execution
from eyeswap.training.log import TrainLog, open_trackers


class Service(ModuleType):
    """Speaks as wandb and trackio do."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.opened: dict = {}
        self.rows: list = []
        self.finished = 0

    def init(self, **about: object) -> None:
        self.opened = about

    def Api(self) -> "Service":  # noqa: N802
        return self

    def runs(self, project: str) -> list:
        return []

    def log(self, values: dict, step: int) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished += 1


class Writer:
    """Speaks as TensorBoard's SummaryWriter does."""

    opened: ClassVar[list] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.rows, self.closed = folder, purge_step, [], False
        self.opened.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.rows.append((name, value, step))

    def close(self) -> None:
        self.closed = True


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_every_step(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    folder = tmp_path / "study" / "arm" / "seed-7"
    run(tiny_llm, folder, execution=Execution(track=(name,)))
    assert (service.opened["project"], service.opened["name"]) == ("eyeswap", "study/arm/seed-7")
    assert service.opened["config"]["lr"] == 1e-2
    assert [step for step, _ in service.rows] == [row["step"] for row in rows(folder)]
    assert [values["train/loss"] for _, values in service.rows] == [row["loss"] for row in rows(folder)]
    assert service.finished == 1


def test_tensorboard_gets_every_step(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "opened", [])
    run(tiny_llm, tmp_path, execution=Execution(track=("tensorboard",)))
    (writer,) = Writer.opened
    assert (writer.folder, writer.purge_step) == (str(tmp_path / "tensorboard"), 0)
    assert [value for name, value, _ in writer.rows if name == "train/loss"] == [row["loss"] for row in rows(tmp_path)]
    assert writer.closed


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(EnvironmentProblem, match=f"track: {name} is not installed; pip install {name}"):
        open_trackers([name], tmp_path, {})


@pytest.mark.parametrize("name", ["trackio", "tensorboard"])
def test_a_resumed_run_shows_each_step_once_in_its_own_tracked_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is first imported
    pytest.importorskip(name)
    folder = tmp_path / "study" / "arm" / "seed-7"
    folder.mkdir(parents=True)
    for first, last in ((0, 5), (3, 6)):
        trackers = open_trackers([name], folder, {"lr": 1.0}, first)
        log = TrainLog(folder / "train.jsonl", first, trackers)
        for step in range(first, last):
            log.add({"step": step, "loss": float(step), "elapsed_s": step / 2})
        log.close()
    assert tracked_steps(name, tmp_path) == [0, 1, 2, 3, 4, 5]


def tracked_steps(name: str, folder: Path) -> list[int]:
    """Return the steps that a tracker shows, as its own reader sees them."""
    if name == "trackio":
        (database,) = (folder / "trackio").glob("*.db")
        with sqlite3.connect(database) as connection:
            return [step for (step,) in connection.execute("select step from metrics order by step, id")]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "study" / "arm" / "seed-7" / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]


def test_wandb_goes_on_in_the_run_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("wandb")
    monkeypatch.setitem(sys.modules, "wandb", service)
    ids = []
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        open_trackers(["wandb"], folder, {})
        assert service.opened["resume"] == "allow"
        ids.append(service.opened["id"])
    assert ids[0] == ids[1] != ids[2]


def test_steps_that_are_taken_again_are_logged_once(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    log = TrainLog(path, 0)
    for step in range(4):
        log.add({"step": step, "loss": float(step), "elapsed_s": step / 2})
    log.close()
    path.write_text(path.read_text() + '{"step": 4, "lo')  # cut off
    log = TrainLog(path, 2)
    assert (log.losses, log.elapsed_s) == ([0.0, 1.0], 0.5)
    log.add({"step": 2, "loss": 9.0, "elapsed_s": 1.0})
    log.close()
    assert [row["loss"] for row in rows(tmp_path)] == [0.0, 1.0, 9.0]
