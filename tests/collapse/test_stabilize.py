"""The cures of a collapsed arm come as a study that loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eyeswap.collapse.stabilize import stabilized, write_stabilized
from eyeswap.errors import SpecError
from eyeswap.planning.spec import load_study

STUDIES = Path(__file__).parents[2] / "studies"
DETECTOR = "vmamba-tiny-s1l8-maskrcnn-1x-letterbox"


def study(name: str) -> dict[str, Any]:
    return load_study(STUDIES / f"{name}.yaml").model_dump(mode="json")


def test_a_detector_gets_the_published_cures(tmp_path: Path) -> None:
    path = tmp_path / "cured.yaml"
    names = write_stabilized(path, study("paper/dense-objectives"), [DETECTOR])
    cured = load_study(path)
    published = load_study(STUDIES / "paper" / "connector-stabilization.yaml")
    assert names == list(cured.arms)
    assert cured.arms == {
        DETECTOR: published.arms[DETECTOR],
        f"{DETECTOR}-fused": published.arms[f"{DETECTOR}-fused"],
        f"{DETECTOR}-512": published.arms[f"{DETECTOR}-512"],
        f"{DETECTOR}-512-fused": published.arms[f"{DETECTOR}-512-fused"],
    }
    assert cured.recipe == published.recipe
    assert (cured.benchmarks, cured.seeds) == (published.benchmarks, published.seeds)
    assert cured.beyond_positions == "allow"


def test_a_small_square_canvas_is_left_as_it_is(tmp_path: Path) -> None:
    write_stabilized(tmp_path / "cured.yaml", study("quickstart"), ["vit", "vmamba"])
    cured = load_study(tmp_path / "cured.yaml")
    assert list(cured.arms) == ["vit", "vit-fused", "vmamba", "vmamba-fused"]
    assert cured.recipe == load_study(STUDIES / "quickstart.yaml").recipe


def test_an_arm_with_a_cure_gets_the_other_one() -> None:
    given = study("paper/connector-stabilization")
    arms = stabilized(given, [f"{DETECTOR}-fused", f"{DETECTOR}-512"])["arms"]
    assert list(arms) == [
        f"{DETECTOR}-fused",
        f"{DETECTOR}-fused-512",
        f"{DETECTOR}-512",
        f"{DETECTOR}-512-fused",
    ]
    assert list(stabilized(given, [f"{DETECTOR}-512-fused"])["arms"]) == [f"{DETECTOR}-512-fused"]


def test_mistakes_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "cured.yaml"
    with pytest.raises(SpecError, match="no arm has collapsed"):
        write_stabilized(path, study("quickstart"), [])
    with pytest.raises(SpecError, match="no arm swin"):
        write_stabilized(path, study("quickstart"), ["swin"])
    assert not path.exists()
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(SpecError, match="already exists"):
        write_stabilized(path, study("quickstart"), ["vit"])
    assert path.read_text(encoding="utf-8") == "mine"
    with pytest.raises(SpecError, match="kebab-case"):
        write_stabilized(tmp_path / "Cured Arms.yaml", study("quickstart"), ["vit"])
    assert not (tmp_path / "Cured Arms.yaml").exists()
