"""Download files once: resumed after an interruption, verified, and renamed into place when complete.

A partial download is kept in ``<file>.part`` beside the server's tag of the file, so that a later call resumes it, and
only if the server still has the same file.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from eyeswap.errors import CheckpointError, DataError
from eyeswap.files import sha256_of, write_text
from eyeswap.progress import progress

ATTEMPTS = 5
TIMEOUT_S = 60.0
PAUSE_S = 1.0
_CHUNK = 1 << 20
HUB = "https://huggingface.co/"


def cache_folder() -> Path:
    """Return the folder of downloaded weights, in ``EYESWAP_CACHE`` or ``~/.cache/eyeswap``."""
    return Path(os.environ.get("EYESWAP_CACHE") or Path.home() / ".cache" / "eyeswap") / "weights"


def mirrored(url: str) -> str:
    """Return a URL of the Hugging Face Hub at the mirror named by ``HF_ENDPOINT``; other URLs are unchanged."""
    mirror = os.environ.get("HF_ENDPOINT")
    return f"{mirror.rstrip('/')}/{url.removeprefix(HUB)}" if mirror and url.startswith(HUB) else url


def remote_bytes(url: str) -> int | None:
    """Return the size of a file on the web; None if its server does not report it.

    Raises:
        DataError: if there is no such file, or no answer.
    """
    request = urllib.request.Request(mirrored(url), method="HEAD", headers={"User-Agent": "eyeswap"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            length = response.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise DataError(f"{url}: the server answers {error.code} {error.reason}") from None
        return None  # some servers only answer to downloads
    except OSError as error:
        raise DataError(f"{url}: {getattr(error, 'reason', None) or error}") from None
    return int(length) if length and length.isdecimal() else None


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Download a file; it appears at ``path`` only when complete, and of several processes one does the work.

    Raises:
        CheckpointError: if the server does not have the file, keeps failing, or sends a file with another ``sha256``;
            or if the folder cannot be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            try:
                if not path.is_file():
                    _download(mirrored(url), path, sha256)
            finally:
                lock.unlink(missing_ok=True)
    except PermissionError as error:
        raise CheckpointError(
            f"{error.filename}: no permission to write; set EYESWAP_CACHE to another folder"
        ) from None


def _download(url: str, path: Path, sha256: str | None) -> None:
    part, tag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.tag")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _resume(url, part, tag)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS:
                raise CheckpointError(f"{url}: the server answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), socket.gaierror):
                raise CheckpointError(f"{url}: no such server, or no network") from None
            if attempt == ATTEMPTS:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise CheckpointError(f"{url}: {reason}, after {ATTEMPTS} attempts; call again to resume") from None
        time.sleep(PAUSE_S * attempt)
    if sha256 is not None and sha256_of(part) != sha256:
        _discard(part, tag)
        raise CheckpointError(f"{url}: sha256 of the download differs from the catalog's; the file was discarded")
    part.replace(path)
    _discard(part, tag)


def _resume(url: str, part: Path, tag: Path) -> None:
    """Download the rest of ``part``, or the whole file if the server now has another one.

    Raises:
        OSError: if the connection ends early.
    """
    num_bytes = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"Range": f"bytes={num_bytes}-", "If-Range": tag.read_text(encoding="utf-8")} if num_bytes else {}
    request = urllib.request.Request(url, headers={"User-Agent": "eyeswap", **headers})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            _discard(part, tag)  # nothing is left to read, or the file has changed: start over
            raise ConnectionError("the partial file did not match the server's") from None
        raise
    with response:
        is_resumed = response.status == http.client.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        expected = None if length is None else int(length) + (num_bytes if is_resumed else 0)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if not is_resumed:
            _discard(part, tag)
            num_bytes = 0
            if validator and not validator.startswith("W/"):  # a weak tag does not guarantee equal bytes
                write_text(tag, validator)
        total = max(1, ((expected or num_bytes) - num_bytes) // _CHUNK)
        with part.open("ab") as stream, progress() as board:
            task = board.task(f"downloading {part.name.removesuffix('.part')} (MiB)", total)
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                task.advance()
    if expected is not None and part.stat().st_size != expected:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {expected} bytes")


def _discard(part: Path, tag: Path) -> None:
    for path in (part, tag):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
