"""Models in folders and on the Hugging Face Hub: located without long retries, and one line if something is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers.utils import logging

from eyeswap.errors import CheckpointError

_TIMEOUT_S = 10.0
# What transformers and its dependencies raise for a broken model.
_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)


def find_model(name: str | Path) -> str:
    """Return where transformers finds a model: its folder, or its name on the Hub.

    The Hub is asked once, because transformers would retry for long; if it is out of reach, a cached copy is used.

    Raises:
        CheckpointError: if there is no such model.
    """
    if Path(name).is_dir():
        return str(name)
    if isinstance(name, Path) or str(name).count("/") != 1:
        raise CheckpointError(f"{name}: no such folder, and not a Hugging Face name (organisation/model)")
    try:
        HfApi().model_info(name, timeout=_TIMEOUT_S)
    except (RepositoryNotFoundError, GatedRepoError):
        raise CheckpointError(f"{name}: the Hub has no such model, or requires a login (`hf auth login`)") from None
    except Exception:  # the ways in which a network can fail are many
        with contextlib.suppress(Exception):
            return snapshot_download(name, local_files_only=True)
        raise CheckpointError(
            f"{name}: neither a folder nor in the Hub's cache on this machine, and the Hub cannot be reached"
        ) from None
    return name


def local_folder(name: str) -> Path:
    """Return the folder of a model on this machine: the folder itself, or its copy in the Hub's cache.

    Raises:
        CheckpointError: if it is not on this machine.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:
        raise CheckpointError(f"{name}: no such folder, and not in the Hub's cache on this machine") from None


@contextlib.contextmanager
def one_line_errors(name: str | Path) -> Iterator[None]:
    """Turn what transformers raises for a broken model into one line, and silence its own reports about it.

    Raises:
        CheckpointError: with the first line of the original error.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # its bars would interrupt ours
    try:
        yield
    except _LOAD_ERRORS as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CheckpointError(f"{name}: cannot be loaded: {lines[0]}") from None
    finally:
        logging.set_verbosity(verbosity)
