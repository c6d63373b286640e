"""The environment record names versions and machine, and changes with the source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import eyeswap
from eyeswap.runs import environment as module


def test_the_record_is_plain_json_with_versions_and_threads() -> None:
    found = module.environment().model_dump()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"]
    assert found["num_threads"] >= 1
    assert len(found["code_version"]) == 64


def test_the_code_version_follows_every_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(eyeswap.__file__).parent
    for name in ("__init__.py", "errors.py"):
        shutil.copy(source / name, tmp_path / name)
    monkeypatch.setattr(eyeswap, "__file__", str(tmp_path / "__init__.py"))
    versions = []
    for text in ("a = 1\n", "a = 1\n", "a = 2\n"):
        (tmp_path / "errors.py").write_text(text, encoding="utf-8")
        module.code_version.cache_clear()
        versions.append(module.code_version())
    module.code_version.cache_clear()
    assert versions[0] == versions[1] != versions[2]


def test_an_absent_package_has_no_version() -> None:
    assert module.version_of("no-such-package-here") is None
