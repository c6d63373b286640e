"""The page on trained models is true: its code runs, one block after another."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText

from eyeswap.backbones.weights import load_backbone
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.llm import load_llm
from eyeswap.vlm.model import VisionLanguageModel

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    llm, tokenizer, prompt = load_llm(tiny_llm)
    backbone = load_backbone("digits-vmamba")
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, 32, seed=1)
    model = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone)
    model.save(tmp_path / "runs" / "quickstart" / "vmamba" / "seed-7" / "model")
    shutil.copytree(tiny_llm, tmp_path / "my-llm")
    Image.new("RGB", (90, 60), (200, 10, 10)).save("scene.png")
    known: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for block in blocks:
        exec(block, known)
    assert len(blocks) == 5
    assert len(known["answers"]) == 2
    assert known["produced"].shape[0] == 1
    again = AutoModelForImageTextToText.from_pretrained("my-model")
    assert again.state_dict().keys() == known["model"].state_dict().keys()
    assert known["vlm"].backbone.name == "digits-vmamba"
