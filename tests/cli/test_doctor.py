"""The doctor finds what would get in the way, first of all a torchvision that cannot be imported."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from eyeswap.cli import doctor

REMEDY = "Remedy: pip uninstall torchvision"


def plant_torchvision(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Put a torchvision with this source on the path of this process and of its children."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(source, encoding="utf-8")
    information = folder / "torchvision-0.28.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: torchvision\nVersion: 0.28.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def test_a_broken_torchvision_is_found_and_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_torchvision(tmp_path, monkeypatch, "raise RuntimeError('operator torchvision::nms does not exist')\n")
    found = dict(doctor.findings())["torchvision"]
    assert "BROKEN (0.28.0: RuntimeError: operator torchvision::nms does not exist)" in found
    assert REMEDY in found


def test_a_sound_torchvision_needs_no_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_torchvision(tmp_path, monkeypatch, "")
    assert dict(doctor.findings())["torchvision"] == "0.28.0, can be imported"


def test_a_torchvision_without_its_library_is_said_to_work_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_torchvision(tmp_path, monkeypatch, "from torchvision import _meta_registrations\n")
    described = "import torch\ntorch.library.register_fake('torchvision::nms')(lambda *_: None)\n"
    (tmp_path / "torchvision" / "_meta_registrations.py").write_text(described, encoding="utf-8")
    expected = "0.28.0, its compiled library does not load; eyeswap and timm work without it"
    assert doctor._torchvision() == expected


def test_the_doctor_says_which_scan_runs_and_what_it_costs() -> None:
    found = dict(doctor.findings())
    assert {"eyeswap", "processor", "GPU", "memory", "disk", "selective scan", "browser"} <= set(found)
    assert " ms for 128 channels, 196 tokens, 8 states" in found["selective scan"]


def test_the_doctor_knows_every_extra_that_can_be_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"])
