"""The audit of a pair of runs that is broken on purpose, as the page shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from broken_pair import write_pair
from typer.testing import CliRunner

from eyeswap.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


def test_everything_that_is_broken_is_found_and_nothing_else(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["audit", str(write_pair(tmp_path)), "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [fact["title"] for fact in found["undeclared"]] == [
        "recipe",
        "batch order",
        "training prompt",
        "frozen mode",
    ]
    declared = ["backbone", "backbone weights", "tap", "token grid", "visual tokens"]
    assert [fact["title"] for fact in found["declared"]] == declared
    by_severity = {severity: {one["key"] for one in found["warnings"] if one["severity"] == severity} for severity in
                   ("error", "warning", "note")}  # fmt: skip
    assert by_severity == {
        "error": {"changed-files", "contradiction"},
        "warning": {
            "train-mode", "early-tap", "padding", "object-scale", "single-seed", "unequal-tokens", "beyond-positions",
            "prompt-mismatch",
        },
        "note": {"tap-norm", "unequal-sizes", "idle-parameters"},
    }  # fmt: skip
    assert found["canvas"]["mambavision/seed-7"]["refcoco"]["padding"] == 0.71
    changed = next(one for one in found["warnings"] if one["key"] == "changed-files")
    assert changed["evidence"] == {"changed": ["model/model.safetensors", "spec.json"]}


def test_the_page_shows_what_the_command_prints(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["audit", str(write_pair(tmp_path))]).stdout
    told = [line for line in printed.splitlines() if re.match("(error|warning|note): |[0-9]+ facts equal", line)]
    assert len(told) > 12
    assert "\n".join(told) in PAGE.read_text(encoding="utf-8")
