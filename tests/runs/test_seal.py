"""A seal names the files of a run that are not as they were when the run ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyeswap.errors import DataError
from eyeswap.runs import seal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sealed folder of a record and some weights."""
    (tmp_path / "model").mkdir()
    (tmp_path / "spec.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    seal.write_seal(tmp_path)
    return tmp_path


def test_an_untouched_run_has_no_changed_file(run: Path) -> None:
    assert list(seal.changed_files(run)) == []


def test_a_large_file_is_compared_by_size(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "LARGE_BYTES", 3)
    (run / "model" / "model.safetensors").write_bytes(b"WEIGHTS")
    assert list(seal.changed_files(run)) == []
    (run / "model" / "model.safetensors").write_bytes(b"more weights")
    assert list(seal.changed_files(run)) == ["model/model.safetensors"]


def test_weights_that_stayed_at_home_are_no_change(run: Path) -> None:
    (run / "model" / "model.safetensors").unlink()
    assert list(seal.changed_files(run)) == []


@pytest.mark.parametrize("content", ['{"../../study.json": {}}', '{"/etc/passwd": {}}', '{"spec.json": 1}', "[]"])
def test_a_hostile_seal_is_refused(run: Path, content: str) -> None:
    (run / "seal.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"seal\.json"):
        list(seal.changed_files(run))
