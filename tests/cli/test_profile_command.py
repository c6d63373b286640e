"""`eyeswap profile` measures what is asked, keeps it where a report finds it, and sets Figure 4 beside it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from eyeswap.cli.main import app
from eyeswap.cli.profile import table_of
from eyeswap.planning.profile import Cell, read_csv

STUDY = """\
question: Which one sees better?
recipe: {data: digits, llm: digits-llm}
arms: {vit: digits-vit}
benchmarks: [pope]
"""


def test_the_profile_of_a_study_lies_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(STUDY, encoding="utf-8")
    arguments = ["profile", "--study", str(tmp_path / "mine.yaml"), "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [*arguments, "--longest", "0.2", "--side", "64", "--side", "100"])
    assert result.exit_code == 0, result.output
    cells = read_csv(tmp_path / "runs" / "mine" / "profile.csv")
    assert [(cell.backbone, cell.side_px, bool(cell.problem)) for cell in cells] == [
        ("digits-vit", 64, False),
        ("digits-vit", 100, True),
    ]
    assert (tmp_path / "runs" / "mine" / "profile.png").is_file()
    assert "digits-vit at 100 px: " in result.stdout


@pytest.mark.parametrize("width", [80, 160])
def test_the_points_of_figure_4_stand_beside_ours(width: int) -> None:
    cell = Cell("vmamba-tiny-s1l8", 224, 196, 0.0071, 0.0001, 0.04, 0.02, 0.0472, 120.0, 13 << 30)
    console = Console(file=io.StringIO(), width=width)
    console.print(table_of([cell], width, beside_published=True))
    text = console.file.getvalue()
    assert " 7.1 " in text
    assert " 6.9 " in text  # Figure 4, VMamba-T at 224 px
    assert max(map(len, text.splitlines())) <= width
