"""Pickles are read without running anything in them, in memory bounded by their size."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from eyeswap.errors import CheckpointError, DataError
from eyeswap.pickles import read_array_pickle, read_plain_pickle


class _Touch:
    """Creates a file when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_nothing_in_it_runs(tmp_path: Path, protocol):
    trace, path = tmp_path / "trace", tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"ref_id": 1}, _Touch(trace)], protocol=protocol))
    with pytest.raises(DataError, match=r"refs.p: refused, not a pickle of plain data: the pickle asks for "):
        read_plain_pickle(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # the careless reader did run it


def test_a_truncated_pickle_is_refused(tmp_path: Path):
    path = tmp_path / "refs.p"
    whole = pickle.dumps([{"ref_id": 1, "sentences": ["the red one"]}], protocol=2)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="refused, not a pickle of plain data"):
            read_plain_pickle(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr" + struct.pack("<I", 2**27) + b".",
        b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".",
        b"Np134217728\n.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"1.",
    ],
)
@pytest.mark.parametrize(("read", "error"), [(read_plain_pickle, DataError), (read_array_pickle, CheckpointError)])
def test_a_few_bytes_cannot_ask_for_much_memory(tmp_path: Path, content: bytes, read, error):
    (tmp_path / "memo.p").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(error, match=r"memo\.p: refused"):
        read(tmp_path / "memo.p")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_and_arrays_come_back_as_they_were(tmp_path: Path, protocol: int):
    plain = [{"ref_id": 7, "sentences": ["pair of pr\u00f6", "p" * 300], "box": (1.5, -2, None, True, 2**70)}] * 3
    (tmp_path / "refs.p").write_bytes(pickle.dumps(plain, protocol))
    assert read_plain_pickle(tmp_path / "refs.p") == plain
    arrays = {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(3, np.float16), "step": np.int64(3)}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol))
    read = read_array_pickle(tmp_path / "model.pkl")["model"]
    for name, value in arrays.items():
        assert np.array_equal(read[name], value)
        assert read[name].dtype == value.dtype


def test_an_array_made_without_its_values_is_refused(tmp_path: Path):
    class Huge:
        def __reduce__(self):
            return (np.ndarray, ((2**40,),))

    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Huge()))
    with pytest.raises(CheckpointError, match="an array without its values"):
        read_array_pickle(tmp_path / "model.pkl")
