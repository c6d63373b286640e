"""Checkpoints: a run that is interrupted anywhere ends as if it had not been; what is damaged is told in one line."""

import errno
import json
import resource
import shutil
import threading
from pathlib import Path

import pytest
import torch
from tiny_run import equal, fresh, losses, recipe, run, tiny_data

from eyeswap.errors import CheckpointError, RunError
from eyeswap.processes import this_process
from eyeswap.recipe import Execution
from eyeswap.training import checkpoint
from eyeswap.training.checkpoint import Checkpoints
from eyeswap.training.learner import Learner
from eyeswap.training.loop import train
from eyeswap.training.step import build_optimizer

OFTEN = Execution(checkpoint_every_s=0, keep_checkpoints=2)


@pytest.fixture(scope="module")
def whole(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("whole")
    return run(tiny_llm, folder), losses(folder)


def interrupt_at(stop: int):
    def report(done: int, note: str) -> None:
        if done == stop:
            raise KeyboardInterrupt

    return report


def cut(llm: Path, folder: Path, stop: int = 6) -> list[Path]:
    """Interrupt a run; return its checkpoints, oldest first."""
    with pytest.raises(KeyboardInterrupt):
        run(llm, folder, execution=OFTEN, report=interrupt_at(stop))
    return sorted((folder / "checkpoints").glob("step-*"))


def ends_like(whole, llm: Path, folder: Path) -> bool:
    weights = run(llm, folder, execution=OFTEN)
    return equal(weights, whole[0]) and losses(folder) == whole[1]


@pytest.mark.parametrize("stop", [1, 2, 5, 8])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(whole, tiny_llm: Path, tmp_path: Path, stop: int):
    cut(tiny_llm, tmp_path, stop)
    assert ends_like(whole, tiny_llm, tmp_path)


def test_training_goes_on_with_another_number_of_workers_packs_and_checkpoints(whole, tiny_llm: Path, tmp_path: Path):
    cut(tiny_llm, tmp_path)
    other = Execution(checkpoint_every_s=0, keep_checkpoints=1, tokens_per_pass=64, recompute=True)
    run(tiny_llm, tmp_path, execution=other)
    assert losses(tmp_path) == pytest.approx(whole[1], rel=1e-4)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1


def test_a_checkpoint_holds_all_that_is_trained(tiny_llm: Path, tmp_path: Path):
    learner = Learner(fresh(tiny_llm))
    optimizer = build_optimizer(learner, 0.1)
    with torch.no_grad():
        for number, parameter in enumerate(learner.parameters()):
            parameter.fill_(number)
            for key in ("step", "exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][key].fill_(number + 0.5)
    with Checkpoints(tmp_path, "d", this_process()) as checkpoints:
        checkpoints.save(learner, optimizer, next_step=3)
    again = Learner(fresh(tiny_llm))
    restored = build_optimizer(again, 0.1)
    with Checkpoints(tmp_path, "d", this_process()) as checkpoints:
        assert checkpoints.load(again, restored) == 3
    assert equal(dict(again.named_parameters()), dict(learner.named_parameters()))
    for one, other in zip(learner.parameters(), again.parameters(), strict=True):
        assert equal(optimizer.state[one], restored.state[other])


def test_what_is_saved_is_the_state_of_the_call_not_of_the_write(tiny_llm: Path, tmp_path: Path, monkeypatch):
    learner = Learner(fresh(tiny_llm))
    optimizer = build_optimizer(learner, 0.1)
    before = {name: parameter.clone() for name, parameter in learner.named_parameters()}
    real = checkpoint.save

    def after_training_went_on(*arguments, **options):
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.fill_(9)
        return real(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", after_training_went_on)
    with Checkpoints(tmp_path, "d", this_process()) as checkpoints:
        checkpoints.save(learner, optimizer, 1)
        checkpoints.wait()
        assert checkpoints.load(learner, optimizer) == 1
    assert equal(dict(learner.named_parameters()), before)


def test_large_states_are_written_in_several_files(whole, tiny_llm: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FILE_BYTES", 50_000)
    (*_, last) = cut(tiny_llm, tmp_path)
    files = list(last.glob("*.safetensors"))
    assert len(files) > 3
    assert len(json.loads((last / "checkpoint.json").read_text())["files"]) == len(files)
    assert ends_like(whole, tiny_llm, tmp_path)


def test_training_goes_on_while_a_checkpoint_is_written(tiny_llm: Path, tmp_path: Path, monkeypatch):
    may_end, real = threading.Event(), checkpoint.save

    def slow(*arguments, **options):
        assert may_end.wait(20)
        return real(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", slow)
    model = fresh(tiny_llm)
    done: list[int] = []

    def report(step: int, note: str) -> None:
        done.append(step)
        if step == 7:
            assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 0  # six steps later not yet written
            may_end.set()

    execution = Execution(checkpoint_every_s=1e-9)  # at once, unless one is being written
    train(model, tiny_data(model), recipe(), tmp_path, "d", execution=execution, report=report)
    assert done == list(range(1, 9))
    assert (tmp_path / "checkpoints" / "step-00000001").is_dir()


def truncate(path: Path) -> None:
    file = next(path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_byte(path: Path) -> None:
    file = next(path.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def lose_the_record(path: Path) -> None:
    (path / "checkpoint.json").unlink()


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, lose_the_record])
def test_a_damaged_checkpoint_is_passed_over_and_kept(whole, tiny_llm: Path, tmp_path: Path, damage):
    older, newer = cut(tiny_llm, tmp_path)
    damage(newer)
    told: list[str] = []
    weights = run(tiny_llm, tmp_path, execution=OFTEN, warn=told.append)
    assert equal(weights, whole[0])
    assert losses(tmp_path) == whole[1]
    assert len(told) == 1
    assert str(newer) in told[0]
    assert told[0].endswith(f"resuming from {older.name}")
    assert list(newer.parent.glob(f"{newer.name}-*.damaged"))


def test_without_any_whole_checkpoint_the_run_says_so_and_deletes_nothing(tiny_llm: Path, tmp_path: Path):
    paths = cut(tiny_llm, tmp_path)
    for path in paths:
        truncate(path)
    with pytest.raises(CheckpointError, match=r"step-\d+: damaged \(shard.* there is no intact one; delete it"):
        run(tiny_llm, tmp_path)
    assert all(path.is_dir() for path in paths)


def test_a_checkpoint_of_another_recipe_is_refused(tiny_llm: Path, tmp_path: Path):
    paths = cut(tiny_llm, tmp_path)
    before = [file.read_bytes() for path in paths for file in sorted(path.iterdir())]
    with pytest.raises(CheckpointError, match="another recipe or other data"):
        run(tiny_llm, tmp_path, digest="e")
    assert [file.read_bytes() for path in paths for file in sorted(path.iterdir())] == before


def test_a_full_disk_stops_the_run_and_names_the_last_checkpoint(whole, tiny_llm: Path, tmp_path: Path, monkeypatch):
    cut(tiny_llm, tmp_path, stop=3)
    last = max((tmp_path / "checkpoints").glob("step-*"))

    def no_room(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", no_room)
        with pytest.raises(RunError, match=r"could not be written \(No space left on device\)") as caught:
            run(tiny_llm, tmp_path, execution=OFTEN)
    assert str(last) in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")] == []
    assert last.is_dir()
    assert ends_like(whole, tiny_llm, tmp_path)


def test_a_disk_that_fills_up_within_a_file_leaves_no_half_checkpoint(whole, tiny_llm: Path, tmp_path: Path):
    cut(tiny_llm, tmp_path, stop=3)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))
    try:
        with pytest.raises(
            RunError, match=r"could not be written \(File too large\); the last checkpoint is .*step-"
        ) as one:
            run(tiny_llm, tmp_path, execution=OFTEN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "\n" not in str(one.value)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before
    assert ends_like(whole, tiny_llm, tmp_path)


def test_a_write_that_the_system_refuses_is_told_in_one_line(tiny_llm: Path, tmp_path: Path):
    folder = tmp_path / "checkpoints"
    folder.write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"could not be written \((File exists|Not a directory)\); there is no check"):
        run(tiny_llm, tmp_path, execution=OFTEN)


def test_leftovers_of_interrupted_writes_are_removed(whole, tiny_llm: Path, tmp_path: Path):
    (path, *_) = cut(tiny_llm, tmp_path)
    shutil.copytree(path, path.with_name(".step-00000099"))
    assert ends_like(whole, tiny_llm, tmp_path)
    assert not list(path.parent.glob(".step-*"))


def test_the_pause_between_checkpoints_grows_with_the_time_one_takes(tmp_path: Path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])
    with Checkpoints(tmp_path, "d", this_process()) as checkpoints:
        for elapsed, took, is_due in [
            (14, 0, False),
            (15, 0, True),
            (15, 10, False),
            (199, 10, False),
            (200, 10, True),
        ]:
            now[0], checkpoints._last_took_s = elapsed, took
            assert checkpoints.is_due() == is_due


def test_the_log_lacks_no_step_and_has_none_twice(tiny_llm: Path, tmp_path: Path):
    cut(tiny_llm, tmp_path, stop=5)
    assert len(losses(tmp_path)) == 5
    run(tiny_llm, tmp_path, execution=OFTEN)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(8))
    elapsed = [row["elapsed_s"] for row in rows]
    assert elapsed == sorted(elapsed)
