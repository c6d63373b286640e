"""The studies in studies/paper hold every experiment of the published registry, with its tokens and its connector."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyeswap.backbones import catalog
from eyeswap.evaluation import BENCHMARKS
from eyeswap.planning.footprint import backbone_footprint
from eyeswap.planning.spec import Study, load_study
from eyeswap.recipe import FolderData, Recipe
from eyeswap.results.published import published_results

FOLDER = Path(__file__).parents[2] / "studies" / "paper"
GROUPS: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    (Path(__file__).parent / "paper_experiments.yaml").read_text(encoding="utf-8")
)
STUDIES = {path.stem: load_study(path) for path in sorted(FOLDER.glob("*.yaml"))}
PUBLISHED_COUNTS = {
    "ViT": 12, "MaxViT": 64, "Vim": 10, "MambaVision": 33, "VMamba": 72, "ViTDet": 9, "ViT-Adapter": 20,
    "web scale": 15,
}  # fmt: skip


def expanded(pattern: str) -> list[str]:
    """Write out ``{a,b}``."""
    parts = [part[1:-1].split(",") if part.startswith("{") else [part] for part in re.split(r"(\{[^}]*\})", pattern)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def ids(group: str, in_registry: bool | None = None) -> list[str]:
    wanted = [part for part in GROUPS[group] if in_registry in (None, part.get("in_registry", True))]
    return [one for part in wanted for pattern in part["ids"] for one in expanded(pattern)]


def family(label: str) -> str:
    if re.search("clip|siglip|dino", label):
        return "web scale"
    named = {
        "vim-": "Vim",
        "vit-adapter": "ViT-Adapter",
        "vitdet": "ViTDet",
        "vmamba": "VMamba",
        "mambavision": "MambaVision",
    }
    for key, title in named.items():
        if label.startswith(key):
            return title
    return "MaxViT" if "maxvit" in label else "ViT"


def num_tokens(study: Study, arm: str) -> int:
    """Count the tokens of an arm of the catalog."""
    own = study.arms[arm]
    return backbone_footprint(own.backbone, study.wiring_of(arm), own.tap, own.geometry).tokens


def test_the_list_of_experiments_is_the_whole_registry() -> None:
    labels = {label for group in GROUPS for label in ids(group, in_registry=True)}
    assert Counter(map(family, labels)) == PUBLISHED_COUNTS
    assert len(labels) == 235


@pytest.mark.parametrize("group", GROUPS)
def test_every_experiment_of_a_group_is_an_arm_of_its_study(group: str) -> None:
    assert set(ids(group)) <= set(STUDIES[group].arms)


def test_no_experiment_of_the_registry_is_without_an_arm() -> None:
    arms = {arm for study in STUDIES.values() for arm in study.arms}
    registry = {label for group in GROUPS for label in ids(group, in_registry=True)}
    assert registry <= arms
    assert not any(label.removesuffix("-letterbox") in catalog.left_out() for label in registry)


@pytest.mark.parametrize("group", GROUPS)
def test_arms_have_the_published_connector_and_number_of_tokens(group: str) -> None:
    study = STUDIES[group]
    for part in GROUPS[group]:
        for label in (one for pattern in part["ids"] for one in expanded(pattern)):
            assert study.connector_of(label) == part.get("connector", "gelu-mlp"), label
            assert study.wiring_of(label) == "controlled"
            if "tokens" in part:
                assert num_tokens(study, label) == part["tokens"], label


def test_an_experiment_means_the_same_in_every_study() -> None:
    meanings: dict[str, set[str]] = {}
    for study in STUDIES.values():
        for label, arm in study.arms.items():
            meanings.setdefault(label, set()).add(arm.model_dump_json())
    assert not [label for label, texts in meanings.items() if len(texts) > 1]


@pytest.mark.parametrize("name", STUDIES)
def test_a_paper_study_uses_the_published_recipe_and_all_benchmarks(name: str) -> None:
    study = STUDIES[name]
    mix = FolderData(folder="data", box_frame="padded-square")
    frame = "study" if name == "as-published-twins" else "padded-square"  # where the training text is, for every arm
    assert study.recipe == Recipe(data=mix, llm="lmsys/vicuna-7b-v1.5", test_box_frame=frame)
    assert study.benchmarks == tuple(one for one in BENCHMARKS if one in study.benchmarks), "in the order of the tables"
    assert len(study.benchmarks) == 11  # ten benchmarks, TextVQA with and without its OCR tokens
    assert study.seeds == (7, 8, 9)


def test_the_matched_study_is_matched() -> None:
    study = STUDIES["matched-in1k-224"]
    assert study.matched == ("tokens",)
    assert len(study.arms) == 15
    assert {num_tokens(study, arm) for arm in study.arms} == {196}


def test_every_matched_and_dense_arm_has_an_as_published_twin() -> None:
    study = STUDIES["as-published-twins"]
    for label in [*ids("matched-in1k-224"), *ids("dense-objectives")]:
        twin = study.arms[f"{label}-as-published"]
        assert (twin.backbone, twin.wiring) == (study.arms[label].backbone, "as-published")
        assert study.arms[label].overrides == {}


def test_each_stabilized_arm_stands_beside_the_same_arm_without_the_cure() -> None:
    arms = STUDIES["connector-stabilization"].arms
    for label in ids("connector-stabilization"):
        without = arms[label.removesuffix("-fused")]
        assert arms[label] == without.model_copy(update={"connector": "fused-gelu-mlp"})


def test_the_collapsed_four_are_wired_as_published_with_each_cure() -> None:
    study = STUDIES["connector-stabilization"]
    collapsed = [point.backbone for point in published_results() if point.status == "collapsed"]
    assert len(collapsed) == 4
    for backbone, canvas, cure in itertools.product(collapsed, ("", "-512"), ("", "-fused")):
        twin = f"{backbone}-letterbox{canvas}{cure}"
        arm = study.arms[f"{twin}-as-published"]
        assert arm.connector == study.arms[twin].connector
        assert study.wiring_of(f"{twin}-as-published") == "as-published"
        geometry = catalog.entry(arm.backbone).wired("as-published").with_changes(geometry=arm.geometry).geometry
        assert not geometry.enlarge
        assert (geometry.canvas == (512, 512)) == bool(canvas)


def test_dense_objectives_can_be_compared_within_both_families() -> None:
    entries = [catalog.entry(arm.backbone) for arm in STUDIES["dense-objectives"].arms.values()]
    families = {"vitdet": "vit", "vit-adapter": "vit"}
    by_family: dict[str, set[str]] = {}
    for entry in entries:
        by_family.setdefault(families.get(entry.family, entry.family), set()).add(entry.objective)
    assert set(by_family) == {"vmamba", "vit"}
    assert all("classification" in objectives and len(objectives) == 3 for objectives in by_family.values())
