"""The blocks of docs/python.md run as one script, which has no main guard, from a tiny study to a report."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import eyeswap
from eyeswap.errors import RunError, SpecError

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
STUDY = """\
question: Which one sees better?
recipe:
  data: {{name: digits, num_train_images: 8, num_val_images: 24, turns: 2}}
  llm: {llm}
  global_batch: 4
  precision: fp32
  max_text_tokens: 64
arms: {{vit: digits-vit, vmamba: digits-vmamba}}
benchmarks: [pope]
"""


@pytest.mark.extended
def test_the_page_runs_as_a_script_without_a_main_guard(tiny_llm: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(STUDY.format(llm=tiny_llm), encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "script.py").write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("vit/seed-7 ")
    assert "vmamba 7 pope" in done.stdout
    assert "(8, 8) torch.Size([1, 64, 128])" in done.stdout
    assert len(list((tmp_path / "runs" / "small").glob("*/seed-7/scores.json"))) == 2


def test_every_public_name_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    functions = set(eyeswap.__all__) - {"LoadedBackbone", "ops"}
    assert not {name for name in functions if f"eyeswap.{name}(" not in page}


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        eyeswap.run_study(tmp_path / "none.yaml", tmp_path)
    with pytest.raises(SpecError, match="no such folder"):
        eyeswap.evaluate(tmp_path / "none", ["pope"])
    with pytest.raises(RunError, match="no trained model"):
        eyeswap.ask(tmp_path, "image.png", "What is it?")
    with pytest.raises(RunError, match="no trained model"):
        eyeswap.load_vlm(str(tmp_path))
