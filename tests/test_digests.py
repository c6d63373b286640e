"""Digests of files follow their bytes, and large ones are computed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eyeswap import digests
from eyeswap.digests import folder_sha256, known_sha256
from eyeswap.files import sha256_of


def test_a_digest_follows_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert known_sha256(path) == sha256_of(path)
    path.write_bytes(b"other")
    assert known_sha256(path) == sha256_of(path)


def test_a_large_file_is_read_once_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESWAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_LARGE_BYTES", 2)
    path, reads = tmp_path / "weights", []
    path.write_bytes(b"one")
    monkeypatch.setattr(digests, "sha256_of", lambda file: reads.append(file) or sha256_of(file))
    for _ in range(2):
        assert known_sha256(path) == sha256_of(path)
        digests._sha256.cache_clear()  # as in another process
    assert len(reads) == 1
    os.utime(path, ns=(1, 1))
    assert known_sha256(path) == sha256_of(path)
    assert len(reads) == 2
    for kept in (tmp_path / "cache").rglob("digests/*"):
        kept.write_text("no digest", encoding="ascii")
    digests._sha256.cache_clear()
    assert known_sha256(path) == sha256_of(path)


def test_a_folder_is_known_by_names_and_bytes(tmp_path: Path) -> None:
    found = set()
    for number, files in enumerate([{"a": "1"}, {"b": "1"}, {"a": "2"}, {"a": "1", "sub/b": ""}]):
        folder = tmp_path / str(number)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        found.add(folder_sha256(folder))
    assert len(found) == 4
