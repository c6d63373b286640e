"""`eyeswap data list|prepare|check`: what is on disk, in words and as JSON, with an exit code for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from eyeswap.data.official.catalogue import TRAINING_SETS
from eyeswap.data.official.families import FAMILIES
from official_files import write_official_files


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)], env={"COLUMNS": "160"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_official_files(tmp_path)
    return tmp_path


def test_list_names_every_family_with_licence_and_what_is_there(root: Path) -> None:
    shown = invoke("list", "--root", root)
    assert shown.exit_code == 0
    for name in FAMILIES:
        assert name in shown.stdout
    rows = json.loads(invoke("list", "--root", root, "--json").stdout)
    assert [row.get("family", row.get("training_set")) for row in rows] == [*FAMILIES, *TRAINING_SETS]
    assert all(file["exists"] for row in rows for file in row["files"] if "family" in row)
    assert all(row["licence"] for row in rows)


def test_prepare_all_writes_every_index_and_says_what_differs_from_the_published_sets(root: Path) -> None:
    shown = invoke("prepare", "all", "--root", root, "--slim", "5", "--check-images")
    assert shown.exit_code == 1  # sixty questions are not the published sets
    for name in FAMILIES:
        assert (root / "datasets" / name / "eyeswap.json").is_file()
        assert f"index files in datasets/{name}: " in shown.stdout
    assert "! 60 examples, published 214,354" in shown.stdout
    summary = json.loads((root / "datasets" / "vqa-v2" / "eyeswap.json").read_text())
    assert [(name, one["examples"]) for name, one in summary["sets"].items()] == [
        ("full", 60),
        ("slim-5", 5),
        ("slim-16384", 60),
    ]


def test_check_writes_nothing(root: Path) -> None:
    rows = json.loads(invoke("check", "all", "--root", root, "--json").stdout)
    assert not (root / "datasets").exists()
    assert {row.get("family", row.get("training_set")) for row in rows if not row["complete"]} == {
        *FAMILIES,
        *TRAINING_SETS,
    }


def test_a_broken_file_is_one_line_that_names_it_and_the_others_are_still_checked(root: Path) -> None:
    path = root / "download" / "tally-qa" / "test.json"
    path.write_text(path.read_text().replace('"answer": 3', '"answer": -3', 1))
    shown = invoke("prepare", "all", "--root", root, "--slim", "5")
    assert f"! {path}: row 4: field 'answer' must not be negative, found -3" in shown.stdout
    assert not (root / "datasets" / "tally-qa").exists()
    assert (root / "datasets" / "ocid-ref" / "eyeswap.json").is_file()


def test_what_is_missing_is_named_with_its_address(tmp_path: Path) -> None:
    shown = invoke("prepare", "vqav2", "--root", tmp_path)
    assert shown.exit_code == 1
    assert "missing  download/vqa-v2/images_val2014  <- http://images.cocodataset.org/zips/val2014.zip, 6 GB" in (
        shown.stdout
    )


@pytest.mark.parametrize("arguments", [("prepare", "coco"), ("prepare", "pope", "--slim", "1024,0")])
def test_a_mistake_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    shown = invoke(*arguments, "--root", tmp_path)
    assert shown.exit_code == 2
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1
