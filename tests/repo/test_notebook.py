"""The notebook runs from its first cell to its last at tiny size, and is stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.extended

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "first-study.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_stored_without_outputs() -> None:
    assert not [cell for cell in CODE if cell["outputs"] or cell["execution_count"] is not None]
    assert [cell["metadata"].get("tags") for cell in CODE if cell["metadata"]] == [["parameters"]]


def test_it_runs_at_tiny_size(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    plt.switch_backend("agg")
    known: dict[str, Any] = {}
    for cell in CODE:
        exec("".join(cell["source"]), known)
        if cell["metadata"].get("tags") == ["parameters"]:
            known |= {"NUM_TRAIN_IMAGES": 8, "NUM_VAL_IMAGES": 24, "LLM": str(tiny_llm)}
    plt.close("all")
    assert set(known["scores"].arm) == {"maxvit", "vmamba"}
    assert set(known["scores"].benchmark) == {"vqav2", "pope", "tallyqa", "refcoco", "average"}
    assert "vmamba - maxvit: " in capsys.readouterr().out
    assert (tmp_path / "runs" / "first-study").is_dir()
