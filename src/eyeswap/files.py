"""Reading and writing files: atomic writes, digests, and readers of untrusted files.

Every file is written under a temporary name in the same folder, flushed to disk and renamed, so that a crash at any
moment leaves either the old file or the new one. Every reader treats its file as hostile.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eyeswap.errors import CheckpointError, DataError, EnvironmentProblem, MissingFileError

# Objects that training tools leave in .pth files beside the weights. None of them is imported or run: dictionaries are
# read as plain ones, everything else as an empty object.
_LEFTOVER_DICTIONARIES = (
    "yacs.config.CfgNode",
    "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict",
)
_LEFTOVER_OBJECTS = (
    "argparse.Namespace",
    "builtins.getattr",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


_unfinished: set[Path] = set()  # temporary files of this process


def remove_unfinished() -> None:
    """Remove the temporary files of this process, which is about to end without unwinding its stack."""
    for temporary in tuple(_unfinished):
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    _unfinished.add(temporary)  # before it exists: a signal can end this process at any moment
    try:
        temporary.touch(mode=0o600, exist_ok=False)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk does not tell which file it was
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk of a path, which need not exist yet."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def check_room(path: Path, num_bytes: int, what: str = "writing") -> None:
    """Check that there is enough disk space.

    Args:
        path: the path to write; need not exist yet.
        num_bytes: number of bytes to write.
        what: the work, for the message.

    Raises:
        EnvironmentProblem: if there is less space.
    """
    free = free_bytes(path)
    if free < num_bytes:
        raise EnvironmentProblem(
            f"{path}: {what} needs {num_bytes / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free on this disk"
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def parse_json(text: str) -> Any:
    """Parse JSON strictly: no repeated keys in an object, no NaN or Infinity.

    Raises:
        ValueError: if the text is not valid; a ``JSONDecodeError`` if the position is known.
    """
    return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_not_a_number)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {repeated!r} stands twice in one object")
    return content


def _not_a_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


STRICT_JSON = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_not_a_number)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: if the file is missing or not strict JSON (`parse_json`); the message names file, line and column.
    """
    text = _read_text(path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: JSON nested too deeply") from None


def read_json_lines(path: Path) -> list[Any]:
    """Read a JSON Lines file, one value per line; blank lines are skipped.

    Raises:
        DataError: naming file and line.
    """
    rows = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(parse_json(line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not valid JSON: {error}") from None
    return rows


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except ValueError as error:  # a null byte in a name that another file gave
        raise DataError(f"{str(path)!r}: not a path: {error}") from None


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of ``value``, with sorted keys and no spaces, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Leftover:
    """Stands in for a training tool's object: accepts any arguments and state, and ignores them."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_torch_weights(path: Path, mmap: bool = False) -> Any:
    """Read a ``.pth`` file with torch's weights-only reader; no code in the file is executed.

    Leftovers of well-known training tools are read as empty objects; any other class or function is refused.

    Args:
        path: the file.
        mmap: whether to leave tensors on disk until they are used; needs a file of torch 1.6 or newer.

    Raises:
        CheckpointError: if the file is missing, not a torch file, or refers to a class or function.
    """
    import torch
    from torch.serialization import safe_globals

    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    harmless: list[Any] = [(collections.OrderedDict, name) for name in _LEFTOVER_DICTIONARIES]
    harmless += [(type("Leftover", (_Leftover,), {}), name) for name in _LEFTOVER_OBJECTS]
    try:
        with safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a hostile file can raise anything
        reference = re.search(r"GLOBAL (\S+)", str(error))
        remedy = "in the code that made it, save only the tensors: torch.save(model.state_dict(), FILE)"
        reason = f"it asks for {reference[1]}; {remedy}" if reference else "it is damaged or of another kind"
        raise CheckpointError(f"{path}: refused, not a torch file with weights only: {reason}") from None


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read all tensors of a safetensors file.

    Raises:
        CheckpointError: if the file is missing or not a complete safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def read_safetensors_shapes(path: Path) -> dict[str, Any]:
    """Read the names and shapes in a safetensors file from its header, as tensors on the meta device.

    Raises:
        CheckpointError: if the file is missing or not a complete safetensors file.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as tensors:
            keys = list(tensors.keys())
            return {key: torch.empty(tensors.get_slice(key).get_shape(), device="meta") for key in keys}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def write_safetensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
