"""Read pickles as if hostile: plain data and arrays only, in memory bounded by the file's own size.

Python's unpickler runs what a pickle asks for, so classes and functions are refused. It also reserves memory that a few
bytes ask for: 9 bytes can demand a table of two billion places. `_refuse_large_memo` reads the opcodes beforehand.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyeswap.errors import CheckpointError, DataError

if TYPE_CHECKING:
    import numpy as np

_NUMPY_CORES = ("numpy.core", "numpy._core")
_PUT, _LONG_PUT = ord(pickle.PUT), ord(pickle.LONG_BINPUT)
# What follows each opcode: a number of bytes; or, below 0, one of pickletools' codes for lines and counted bytes.
_ARGUMENTS = {ord(opcode.code): opcode.arg.n if opcode.arg else 0 for opcode in pickletools.opcodes}
_COUNT_BYTES = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4}
_COUNT_BYTES |= {pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
_TWO_LINES = (ord(pickle.GLOBAL), ord(pickle.INST))


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of lists, dicts, strings and numbers (REFER's ``refs(*).p``); anything else is refused.

    Raises:
        DataError: if the file is missing, not a pickle, or contains anything but plain data.
    """
    try:
        content = path.read_bytes()
        _refuse_large_memo(content)
        return _PlainUnpickler(io.BytesIO(content), encoding="utf-8").load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a hostile pickle can raise anything
        raise DataError(f"{path}: refused, not a pickle of plain data: {' '.join(str(error).split())}") from None


def read_array_pickle(path: Path) -> Any:
    """Read a pickle of plain data and numpy arrays (detectron2's ``.pkl``); anything else is refused.

    Raises:
        CheckpointError: if the file is missing, not a pickle, or contains anything but plain data and arrays.
    """
    try:
        content = path.read_bytes()
        _refuse_large_memo(content)
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weights file") from None
    except Exception as error:  # a hostile pickle can raise anything
        raise CheckpointError(f"{path}: refused, not a pickle of arrays: {' '.join(str(error).split())}") from None


def _refuse_large_memo(content: bytes) -> None:
    """Check that no opcode puts a value into a place beyond the pickle's number of bytes.

    Places are numbered from 0 and each takes an opcode, so an honest pickle never does; the unpickler reserves memory
    for all places up to the highest.

    Raises:
        pickle.UnpicklingError: if one does, or an opcode is unknown or cut off.
    """
    place, end = 0, len(content)
    while place < end:
        code = content[place]
        place += 1
        size = _ARGUMENTS.get(code)
        if size is None:
            raise pickle.UnpicklingError(f"unknown opcode {code:#04x}")
        if size >= 0:
            if code == _LONG_PUT and int.from_bytes(content[place : place + size], "little") > end:
                raise pickle.UnpicklingError("it asks for more memory than its size warrants")
            place += size
        elif size == pickletools.UP_TO_NEWLINE:
            stop = content.find(b"\n", place) + 1
            if code in _TWO_LINES and stop:
                stop = content.find(b"\n", stop) + 1
            if not stop:
                raise pickle.UnpicklingError("it ends early")
            if code == _PUT and not 0 <= int(content[place : stop - 1]) <= end:
                raise pickle.UnpicklingError("it asks for more memory than its size warrants")
            place = stop
        else:
            width = _COUNT_BYTES[size]
            place += width + int.from_bytes(content[place : place + width], "little")


class _PlainUnpickler(pickle.Unpickler):
    """Admits built-in containers, numbers and strings only: no class, no function, so nothing can run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")


class _ArrayUnpickler(pickle.Unpickler):
    """Admits built-in data and numpy arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return _ArrayType  # named as an argument only; calling it could reserve memory without end
        if (module, name) in {(f"{core}.multiarray", "_reconstruct") for core in _NUMPY_CORES}:
            return _empty_array
        allowed = {("collections", "OrderedDict"), ("numpy", "dtype"), ("_codecs", "encode")}
        allowed |= {(f"{core}.multiarray", "scalar") for core in _NUMPY_CORES}
        allowed |= {(f"{core}.numeric", "_frombuffer") for core in _NUMPY_CORES}
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")
        return super().find_class(module, name)


class _ArrayType:
    """Stands for ``numpy.ndarray`` inside a pickle."""

    def __init__(self, *arguments: Any) -> None:
        raise pickle.UnpicklingError("the pickle makes an array without its values")


def _empty_array(*arguments: Any) -> np.ndarray[Any, Any]:
    """Return the array without values that numpy's pickles fill next."""
    import numpy as np

    return np.empty(0, dtype=np.int8)
