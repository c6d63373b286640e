"""The documentation site has every page, builds without a warning, and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GENERATED = {"command-line.md"}


def pages(entries: list[Any]) -> Iterator[str]:
    """Yield the pages of a navigation, whatever their depth."""
    for entry in entries:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else pages(target)


def test_the_navigation_has_every_page_once() -> None:
    about = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(pages(about["nav"]))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(written | GENERATED)


def test_the_reference_has_every_public_name() -> None:
    import eyeswap

    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = {line.rpartition(".")[2] for line in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert not set(eyeswap.__all__) - {"ops"} - listed


@pytest.mark.extended
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "command-line" / "index.html").read_text(encoding="utf-8")
    assert "eyeswap study run" in commands
    assert "--install-completion" in commands
    assert "eyeswap.api.run_study" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "search" / "search_index.json").is_file()
    loaded = re.findall(r'<(?:script|link)[^>]+(?:src|href)="(https?:[^"]+)"', commands)
    assert not loaded
