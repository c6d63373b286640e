"""The store of visual tokens: whatever cuts a write off, what was whole before is whole afterwards."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eyeswap.errors import DataError, EnvironmentProblem
from eyeswap.tokens.store import ImageDigests, TokenStore

NAMES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(8)]
ROWS = [np.full((3, 2), number, np.float16) for number in range(8)]


def filled(folder: Path, count: int) -> TokenStore:
    store = TokenStore(folder, {"name": "x"})
    with store.writing():
        for number in range(count):
            store.append(NAMES[number : number + 1], ROWS[number : number + 1])
    return store


def holds(store: TokenStore, count: int) -> bool:
    return list(store.rows) == NAMES[:count] and np.array_equal(store.tokens(), np.stack(ROWS[:count]))


def test_what_was_appended_is_there_for_the_next_reader(tmp_path: Path):
    filled(tmp_path / "s", 3)
    again = TokenStore(tmp_path / "s")
    assert holds(again, 3)
    with again.writing():
        again.append(NAMES[3:5], ROWS[3:5])
    assert holds(TokenStore(tmp_path / "s"), 5)
    again.check(range(5))


@pytest.mark.parametrize("file", ["index.txt", "tokens.f16"])
@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_torn_end_is_left_out_and_written_over(tmp_path: Path, file: str, cut: int):
    filled(tmp_path / "s", 4)
    path = tmp_path / "s" / file
    path.write_bytes(path.read_bytes()[:-cut])
    torn = TokenStore(tmp_path / "s")
    assert holds(torn, 3)
    with torn.writing():
        torn.append(NAMES[3:5], ROWS[3:5])
    again = TokenStore(tmp_path / "s")
    assert holds(again, 5)
    again.check(range(5))


def test_tokens_without_their_line_are_written_over(tmp_path: Path):
    filled(tmp_path / "s", 2)
    with (tmp_path / "s" / "tokens.f16").open("ab") as stream:
        stream.write(b"half a row")
    store = TokenStore(tmp_path / "s")
    with store.writing():
        store.append(NAMES[2:3], ROWS[2:3])
    assert holds(TokenStore(tmp_path / "s"), 3)
    assert (tmp_path / "s" / "tokens.f16").stat().st_size == 3 * 12


def test_changed_tokens_are_found(tmp_path: Path):
    store = filled(tmp_path / "s", 3)
    path = tmp_path / "s" / "tokens.f16"
    content = bytearray(path.read_bytes())
    content[13] ^= 1
    path.write_bytes(content)
    store.check([0, 2])
    with pytest.raises(DataError, match="row 1 has changed since it was written"):
        store.check(range(3))


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = filled(tmp_path / "s", 2)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with store.writing(), pytest.raises(EnvironmentProblem, match=r"No space left .* after 2 images; free disk space"):
        store.append(NAMES[2:3], ROWS[2:3])
    monkeypatch.undo()
    assert holds(TokenStore(tmp_path / "s"), 2)


def test_an_empty_store_leaves_no_folder(tmp_path: Path):
    store = TokenStore(tmp_path / "s")
    with store.writing():
        pass
    assert not (tmp_path / "s").exists()
    with pytest.raises(DataError, match="contains no visual tokens"):
        store.tokens()


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from eyeswap.tokens.store import TokenStore
store = TokenStore(Path(sys.argv[1]))
with store.writing():
    print("ready", flush=True)
    for number in range(len(store), 120):
        store.append([f"{number:064d}"], [np.full((30, 20), number, np.float16)])
"""


def test_writers_that_are_killed_and_writers_that_wait_end_with_one_whole_store(tmp_path: Path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "s")]
    for pause_s in (0.0, 0.05):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    store = TokenStore(tmp_path / "s")
    assert list(store.rows) == [f"{number:064d}" for number in range(120)]
    assert [row[0, 0] for row in store.tokens()] == list(range(120))
    store.check(range(120))


def test_a_digest_is_taken_once_until_the_file_changes(tmp_path: Path):
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    digests = ImageDigests(tmp_path / "digests.jsonl")
    first = digests.of(image)
    digests.save()
    assert first == hashlib.sha256(b"one").hexdigest()
    with (tmp_path / "digests.jsonl").open("a") as stream:
        stream.write('["torn')
    again = ImageDigests(tmp_path / "digests.jsonl")
    facts = image.stat()
    image.write_bytes(b"two")  # as long as before
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert again.of(image) == first  # size and time are believed
    image.write_bytes(b"three")
    assert again.of(image) == hashlib.sha256(b"three").hexdigest()
    assert again.of(tmp_path / "nothing.png") is None
