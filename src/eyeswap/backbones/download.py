"""Get official weight files once: resumed after a cut, checked, and renamed into place when whole.

They lie in one folder under their official names, so that a machine without a network can be given the folder.
The part of a file that has arrived waits in ``<file>.part`` beside the server's tag of it, so that a later
call goes on where the last one stopped, and only with the same file. Files of the Hugging Face hub are taken
from its own cache where they are there already.
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

from eyeswap.backbones.catalog import WeightsSource
from eyeswap.errors import CheckpointError
from eyeswap.files import sha256_of, write_text
from eyeswap.progress import progress

ATTEMPTS = 5
TIMEOUT_S = 60.0
PAUSE_S = 1.0
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Return where downloaded weights lie: ``EYESWAP_CACHE``, or ``~/.cache/eyeswap``."""
    return Path(os.environ.get("EYESWAP_CACHE") or Path.home() / ".cache" / "eyeswap") / "weights"


def address(source: WeightsSource) -> str | None:
    """Return where on the web a weights file lies; ``HF_ENDPOINT`` names a mirror of the Hugging Face hub."""
    if source.hub is None:
        return source.url
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{source.hub}/resolve/main/{source.file}"


def local_path(source: WeightsSource) -> Path:
    """Return where a weights file lies on this machine, or would lie after a download."""
    path = cache_folder() / source.place
    if source.hub is not None and not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source.hub, source.file)
        if isinstance(found, str):
            return Path(found)
    return path


def fetch(source: WeightsSource) -> Path:
    """Return the local path of a weights file, downloading it the first time.

    Raises:
        CheckpointError: if it cannot be got, or is not the file that the catalog means.
    """
    path, url = local_path(source), address(source)
    if not path.is_file():
        if url is None:
            raise CheckpointError(f"{source.file}: the catalog has no address for it; pass the file as weights")
        try:
            download(url, path, source.sha256)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or get the file elsewhere and put it at {path}") from None
    elif source.sha256 is not None and sha256_of(path) != source.sha256:
        raise CheckpointError(f"{path}: sha256 differs from the catalog's; delete the file to get it again")
    return path


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Download a file; nothing appears at ``path`` before it is whole, and of several processes one does the work.

    Raises:
        CheckpointError: if the server does not have it, keeps failing, or sends another file than ``sha256``; or if the
            folder cannot be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            try:
                if not path.is_file():
                    _download(url, path, sha256)
            finally:
                lock.unlink(missing_ok=True)
    except PermissionError as error:
        raise CheckpointError(
            f"{error.filename}: not allowed to write there; set EYESWAP_CACHE to another folder"
        ) from None


def _download(url: str, path: Path, sha256: str | None) -> None:
    part, tag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.tag")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue(url, part, tag)
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
        _forget(part, tag)
        raise CheckpointError(f"{url}: sha256 of the download differs from the catalog's; the file was discarded")
    part.replace(path)
    _forget(part, tag)


def _continue(url: str, part: Path, tag: Path) -> None:
    """Read on from where ``part`` ends, or from the start if the server has another file by now.

    Raises:
        OSError: if the connection ends early.
    """
    known = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"Range": f"bytes={known}-", "If-Range": tag.read_text(encoding="utf-8")} if known else {}
    request = urllib.request.Request(url, headers={"User-Agent": "eyeswap", **headers})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            _forget(part, tag)  # nothing is left to read, or another file: start over
            raise ConnectionError("the partial file did not fit") from None
        raise
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        expected = None if length is None else int(length) + (known if resumed else 0)
        seen = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if not resumed:
            _forget(part, tag)
            known = 0
            if seen and not seen.startswith("W/"):
                write_text(tag, seen)
        total = max(1, ((expected or known) - known) // _CHUNK)
        with part.open("ab") as stream, progress() as board:
            task = board.task(f"download {part.name.removesuffix('.part')} (MiB)", total)
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                task.advance()
    if expected is not None and part.stat().st_size != expected:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {expected} bytes")


def _forget(part: Path, tag: Path) -> None:
    for path in (part, tag):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
