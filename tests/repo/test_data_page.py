"""The page on training data is true: its example is checked and read, its counts are those of the catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from eyeswap.cli.main import app
from eyeswap.data.instruction import read_instructions
from eyeswap.data.official.catalogue import TRAINING_SETS
from eyeswap.recipe import FolderData

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


def test_the_example_is_checked_and_read_as_the_recipe_shown_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-data" / "photos").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save("my-data/photos/street.jpg")
    (tmp_path / "my-data" / "train.json").write_text(block("json"))
    (command,) = [line for line in PAGE.splitlines() if line.startswith("eyeswap data check my-data")]
    shown = CliRunner().invoke(app, command.split()[1:])
    assert shown.exit_code == 0, shown.output
    assert "2 records (1 with an image, 1 text only), 3 turns" in shown.stdout
    recipe = FolderData.model_validate(yaml.safe_load(block("yaml")))
    assert recipe.skip_missing
    path = Path(recipe.folder, recipe.instruction)
    found = read_instructions(path, Path(recipe.instruction).parent.as_posix())
    assert [one.image for one in found] == ["photos/street.jpg", None]
    Path("my-data/photos/street.jpg").unlink()
    assert CliRunner().invoke(app, command.split()[1:]).exit_code == 1


def test_a_mistake_in_the_example_is_told_with_row_id_and_field(tmp_path: Path) -> None:
    rows = json.loads(block("json"))
    del rows[1]["conversations"]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    shown = CliRunner().invoke(app, ["data", "check", str(tmp_path / "train.json")])
    assert shown.exit_code == 2
    assert shown.stderr == (
        f"error: {tmp_path / 'train.json'}: row 2 (id 'text-1'): field 'conversations' is missing\n"
    )


def test_folders_counts_and_sizes_are_those_of_the_catalogue() -> None:
    mix = TRAINING_SETS["llava-v1.5-instruct"]
    assert f"{sum(mix.counts.values()):,} conversations" in PAGE
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    for source in mix.sources:
        (row,) = [line for line in rows if source.names[0] in line]
        assert source.size.removesuffix(" GB") in row
    for count in mix.counts.values():
        assert any(f"| {count:,} |" in line for line in rows)
