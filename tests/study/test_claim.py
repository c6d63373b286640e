"""A folder has one holder at a time, and loses it when the holder ends, dies, or sleeps too long."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eyeswap.errors import RunError
from eyeswap.study import claim as module
from eyeswap.study.claim import claim, held, holder_of

HOLD = """
import sys, time
from collections.abc import Iterator
from pathlib import Path
from eyeswap.study.claim import claim
assert claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def hold_elsewhere(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def age(folder: Path, seconds: float) -> None:
    last = max((folder / "workers").glob("*.json"))
    os.utime(last, (time.time() - seconds,) * 2)


def test_a_held_folder_cannot_be_claimed_and_a_released_one_can(tmp_path: Path) -> None:
    first = claim(tmp_path)
    assert first is not None
    assert claim(tmp_path) is None
    first.release("done")
    second = claim(tmp_path)
    assert second is not None
    second.release("failed", "why")
    last = holder_of(tmp_path)
    assert last is not None
    assert (last.number, last.end, last.message, last.pid) == (2, "failed", "why", os.getpid())
    assert [path.name for path in sorted((tmp_path / "workers").iterdir())] == ["0001.json", "0002.json"]


def test_a_folder_never_claimed_has_no_holder(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    with hold_elsewhere(tmp_path) as process:
        assert claim(tmp_path) is None
        process.send_signal(signal.SIGKILL)
    mine = claim(tmp_path)
    assert mine is not None
    mine.release("done")


def test_a_process_of_another_machine_holds_as_long_as_it_is_heard_of(tmp_path: Path) -> None:
    mine = claim(tmp_path)
    assert mine is not None
    mine.release("interrupted")
    path = tmp_path / "workers" / "0002.json"
    other = {**json.loads((tmp_path / "workers" / "0001.json").read_text()), "machine": "other", "end": None}
    path.write_text(json.dumps(other), encoding="utf-8")
    assert claim(tmp_path) is None
    age(tmp_path, module.STALE_S + 5)
    next_one = claim(tmp_path)
    assert next_one is not None
    assert next_one.holder.number == 3
    next_one.release("done")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_claim_cut_off_while_it_was_written_holds_until_it_is_stale(tmp_path: Path, content: str) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "0001.json").write_text(content, encoding="utf-8")
    assert claim(tmp_path) is None
    age(tmp_path, module.STALE_S + 5)
    mine = claim(tmp_path)
    assert mine is not None
    mine.release("done")


def test_a_reused_process_id_does_not_keep_a_claim_alive(tmp_path: Path) -> None:
    mine = claim(tmp_path)
    assert mine is not None
    mine.release("interrupted")
    other = {**json.loads((tmp_path / "workers" / "0001.json").read_text()), "born": "1", "end": None}
    (tmp_path / "workers" / "0002.json").write_text(json.dumps(other), encoding="utf-8")
    next_one = claim(tmp_path)
    assert next_one is not None
    next_one.release("done")


def test_a_holder_keeps_touching_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    mine = claim(tmp_path)
    assert mine is not None
    age(tmp_path, 50)
    deadline = time.monotonic() + 5
    while (last := holder_of(tmp_path)) is not None and last.age_s > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    mine.release("done")


@pytest.fixture
def restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("listens", [True, False], ids=["to interrupts", "to SIGTERM alone"])
def test_a_worker_that_slept_stops_when_its_folder_was_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored_signals: None, listens: bool
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler if listens else signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if listens else signal.default_int_handler)
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    mine = claim(tmp_path)
    assert mine is not None

    other = tmp_path / "0002.json"
    other.write_text("{}", encoding="utf-8")

    def sleep_while_another_takes_over() -> None:
        with held(mine):
            other.rename(tmp_path / "workers" / "0002.json")  # at once, for this worker may see it at any moment
            time.sleep(60)

    with pytest.raises(RunError, match="another worker took this run over"):
        sleep_while_another_takes_over()
    assert (tmp_path / "workers" / "0002.json").read_text(encoding="utf-8") == "{}"


def test_how_a_block_ends_is_recorded(tmp_path: Path) -> None:
    for error, end in ((ValueError("bad"), "failed"), (KeyboardInterrupt(), "interrupted"), (None, "done")):
        mine = claim(tmp_path)
        assert mine is not None
        try:
            with held(mine):
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
        last = holder_of(tmp_path)
        assert last is not None
        assert last.end == end


def _race(folder: str, start: float) -> int:
    time.sleep(max(0.0, start - time.time()))
    return sum(claim(Path(folder) / str(number)) is not None for number in range(40))


def test_of_many_racing_workers_exactly_one_wins_each_folder(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        won = pool.starmap(_race, [(str(tmp_path), time.time() + 0.3)] * 3)
        assert sum(won) == 40
