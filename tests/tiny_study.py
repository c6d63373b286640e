"""A whole study that takes seconds: two arms with one convolution each, a one-layer LLM, a few scenes."""

from __future__ import annotations

from pathlib import Path

ENCODERS = """
from torch import nn
from eyeswap.backbones.base import VisionBackbone
from eyeswap.geometry import ImageGeometry

class Tiny(VisionBackbone):
    embed_dim = 8

    def __init__(self, activation):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), activation)

    def feature_map(self, pixel_values):
        return self.stem(pixel_values).permute(0, 2, 3, 1)

    def token_grid(self, height, width):
        return height // 16, width // 16

def vit():
    return Tiny(nn.GELU()), ImageGeometry(canvas=(64, 64))

def vmamba():
    return Tiny(nn.PReLU()), ImageGeometry(canvas=(64, 64))
"""

STUDY = """
question: Does a study run from data to scores?
recipe:
  data: {{name: digits, seed: 1, num_train_images: {train}, num_val_images: {val}, turns: 6}}
  llm: {llm}
  global_batch: 8
  lr: 1e-3
  precision: fp32
  max_text_tokens: 256
arms:
  vit: encoders.py:vit
  vmamba: encoders.py:vmamba
benchmarks: [{benchmarks}]
execution: {{checkpoint_every_s: 0, workers: 0}}
"""

BENCHMARKS = ("vqav2", "pope", "tallyqa", "refcoco", "ocid-ref")


def write_tiny_study(
    folder: Path, llm: Path, train: int = 32, val: int = 10, benchmarks: tuple[str, ...] = BENCHMARKS
) -> Path:
    """Write the study and its encoders; return the study's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encoders.py").write_text(ENCODERS)
    text = STUDY.format(llm=llm, train=train, val=val, benchmarks=", ".join(benchmarks))
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


def write_tiny_llm(folder: Path) -> Path:
    """Write a one-layer Llama of width 32 and the miniature tokenizer, untrained but seeded; return the folder."""
    import torch
    from transformers import LlamaForCausalLM

    from eyeswap.files import write_json
    from eyeswap.pretraining.language import LanguageRecipe, build_tokenizer, llama_config
    from eyeswap.pretraining.texts import make_text

    recipe = LanguageRecipe(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=48)
    corpus = [part for index in range(200) for turn in make_text(0, index)[1] for part in turn]
    tokenizer = build_tokenizer(corpus)
    torch.manual_seed(0)
    LlamaForCausalLM(llama_config(recipe, tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "eyeswap.json", {"system": ""})
    return folder
