"""Read untrusted pickles: only plain data and arrays, in memory bounded by the size of the file.

Python's unpickler calls whatever a pickle refers to, so classes and functions are refused. It also allocates memory on
demand: 9 bytes can request a memo table of two billion entries. `_refuse_large_memo` checks the opcodes beforehand.
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
# Argument of each opcode: a number of bytes; or, if negative, one of pickletools' codes for lines and counted bytes.
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
        raise DataError(f"{path}: refused, not a pickle of plain data: {error}") from None


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
        raise CheckpointError(f"{path}: refused, not a pickle of arrays: {error}") from None


def _refuse_large_memo(content: bytes) -> None:
    """Check that no opcode stores a value at a memo index beyond the pickle's number of bytes.

    Memo entries are numbered from 0 and each takes an opcode, so a valid pickle never does; the unpickler allocates
    memory for all entries up to the highest index.

    Raises:
        pickle.UnpicklingError: if one does, or an opcode is unknown or incomplete.
    """
    position, end = 0, len(content)
    while position < end:
        code = content[position]
        position += 1
        size = _ARGUMENTS.get(code)
        if size is None:
            raise pickle.UnpicklingError(f"unknown opcode {code:#04x}")
        if size >= 0:
            if code == _LONG_PUT and int.from_bytes(content[position : position + size], "little") > end:
                raise pickle.UnpicklingError("it asks for more memory than its size warrants")
            position += size
        elif size == pickletools.UP_TO_NEWLINE:
            stop = content.find(b"\n", position) + 1
            if code in _TWO_LINES and stop:
                stop = content.find(b"\n", stop) + 1
            if not stop:
                raise pickle.UnpicklingError("it ends early")
            if code == _PUT and not 0 <= int(content[position : stop - 1]) <= end:
                raise pickle.UnpicklingError("it asks for more memory than its size warrants")
            position = stop
        else:
            width = _COUNT_BYTES[size]
            position += width + int.from_bytes(content[position : position + width], "little")


class _PlainUnpickler(pickle.Unpickler):
    """Admits only built-in containers, numbers and strings; without classes and functions nothing can be called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")


class _ArrayUnpickler(pickle.Unpickler):
    """Admits only built-in data and numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return _ArrayType  # may only be passed as an argument; calling it could allocate any amount of memory
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
    """Return the empty array that numpy's pickles fill in the next opcode."""
    import numpy as np

    return np.empty(0, dtype=np.int8)
