"""Wheel and sdist are complete and small, install into a clean environment, and pull neither torchvision nor timm."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from eyeswap.cli.doctor import EXTRAS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "eyeswap"

pytestmark = [pytest.mark.slow, pytest.mark.extended]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it, so that what is missing in the sdist is missing here."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def headers(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        return Parser().parsestr(archive.read(metadata).decode())


def test_wheel_and_sdist_are_small(wheel: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in wheel.parent.iterdir()}
    assert len(sizes) == 2
    assert max(sizes.values()) < 15_000_000, sizes


def test_the_metadata_are_complete(headers: Message) -> None:
    assert headers["License-Expression"] == "Apache-2.0"
    assert headers["Description-Content-Type"] == "text/markdown"
    classifiers = headers.get_all("Classifier", [])
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(classifiers)
    assert "License-File" in headers


def test_the_version_is_the_same_everywhere(headers: Message) -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {headers['Version']}\n" in citation
    assert f"\n## {headers['Version']} " in changelog


def test_extras_are_named_the_same_everywhere(headers: Message) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    extras = headers.get_all("Provides-Extra", [])
    assert sorted(extras) == sorted(EXTRAS)
    assert sorted(re.findall(r"^\| `pip install -e '\.\[(\w+)\]'` ", readme, re.MULTILINE)) == sorted(extras)


def test_the_wheel_holds_every_source_and_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    data = {".py", ".yaml", ".json", ".html", ".css", ".js", ".svg", ".j2", ".safetensors", ".typed"}
    wanted = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*") if path.suffix in data}
    assert not wanted - packed


def test_the_wheel_requires_neither_torchvision_nor_timm(headers: Message) -> None:
    required = [line for line in headers.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert any(line.startswith("torch<") or line.startswith("torch>") for line in required)
    assert not [line for line in required if line.startswith(("torchvision", "timm"))]


def test_the_wheel_runs_in_a_clean_environment(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    # The dependencies are lent by this environment, behind the new one's own packages.
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    where = "import eyeswap, eyeswap.backbones.catalog as c; print(eyeswap.__file__); c.entry('digits-vit')"
    told = subprocess.run([str(python), "-c", where], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert Path(told.stdout.strip()).is_relative_to(site)
    version = subprocess.run(
        [tmp_path / "venv" / "bin" / "eyeswap", "--version"], check=True, capture_output=True, text=True
    )
    assert version.stdout.startswith("eyeswap 0.")
