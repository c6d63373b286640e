"""``run.log``: what happened to a run and when, in words; a failure with its traceback."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

LOGGER = logging.getLogger("eyeswap")
FORMAT = "%(asctime)sZ %(levelname)-7s %(message)s"


def log_format() -> logging.Formatter:
    """Return the format of all lines: time in UTC, level, message."""
    formatter = logging.Formatter(FORMAT, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


@contextlib.contextmanager
def run_log(path: Path, title: str, *, writes: bool = True) -> Iterator[None]:
    """Append what is logged inside of the block to a file, how the block ended included.

    Args:
        path: the file; its folder is made.
        title: what the block does, for its first and last line.
        writes: whether this process writes the file; of processes that work together, one does.
    """
    if not writes:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(log_format())
    level = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    try:
        LOGGER.info("%s", title)
        yield
        LOGGER.info("%s: done", title)
    except BaseException as error:
        LOGGER.error("%s: %s", title, type(error).__name__, exc_info=True)
        raise
    finally:
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)
        handler.close()
