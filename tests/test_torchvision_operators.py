"""A torchvision whose compiled library does not load can be imported by transformers and timm, in any order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What matters of torchvision: it tries its library, goes on without it, and then describes operators of the library.
MODULES = {
    "torchvision/__init__.py": "from torchvision import extension, _meta_registrations, ops, transforms\n",
    "torchvision/extension.py": "def _has_ops():\n    return False\n",
    "torchvision/ops.py": 'def nms():\n    raise RuntimeError("Couldn\'t load custom C++ ops")\n',
    "torchvision/_meta_registrations.py": """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets.new_empty(0)

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold):
    return dets.new_empty(0)
""",
    "torchvision/transforms/__init__.py": """
from enum import Enum

InterpolationMode = Enum("InterpolationMode", "NEAREST NEAREST_EXACT BOX BILINEAR HAMMING BICUBIC LANCZOS")
""",
    "torchvision/transforms/functional.py": "def pil_to_tensor(image):\n    raise NotImplementedError\n",
    "torchvision-0.28.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n",
    "timm/__init__.py": "import torchvision\n",
}
LIBRARY_LOADS = """
import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
USE = "import timm\nfrom transformers.image_utils import torch_pil_interpolation_mapping as used\nassert used\n"
COUNT = "from eyeswap.torchvision_operators import declared\nprint(len(declared))\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with a timm and a torchvision whose library does not load."""
    for name, text in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def run(code: str, site: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new process that sees the folder's packages."""
    head = f"import sys\nsys.path.insert(0, {str(site)!r})\n"
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=False)


@pytest.mark.extended
def test_such_a_torchvision_breaks_transformers_and_timm_without_eyeswap(site: Path) -> None:
    assert "operator torchvision::nms does not exist" in run("import timm", site).stderr


@pytest.mark.parametrize(
    "first",
    [
        "import eyeswap\n",
        pytest.param("import transformers, eyeswap\n", marks=pytest.mark.extended),
        pytest.param(  # half imported before
            "try:\n    import timm\nexcept RuntimeError:\n    import eyeswap\n", marks=pytest.mark.extended
        ),
    ],
    ids=["eyeswap", "transformers", "timm"],
)
def test_with_eyeswap_both_can_be_imported_whatever_comes_first(first: str, site: Path) -> None:
    result = run(first + USE + COUNT, site)
    assert (result.returncode, result.stdout) == (0, "1\n"), result.stderr


def test_operators_of_a_library_that_loads_are_left_alone(site: Path) -> None:
    (site / "torchvision" / "extension.py").write_text(LIBRARY_LOADS, encoding="utf-8")
    result = run("import eyeswap, timm\n" + COUNT, site)
    assert (result.returncode, result.stdout) == (0, "0\n"), result.stderr


def test_importing_eyeswap_still_imports_nothing_heavy(site: Path) -> None:
    result = run("import eyeswap\nassert not {'torch', 'torchvision', 'transformers'} & set(sys.modules)", site)
    assert result.returncode == 0, result.stderr
