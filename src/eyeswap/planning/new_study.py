"""Write a commented study file for given backbones: what a newcomer would otherwise collect from the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from eyeswap.errors import SpecError
from eyeswap.files import write_text
from eyeswap.planning.spec import kebab, load_study
from eyeswap.shipped import SHIPPED_LLM

_TEMPLATE = """\
# Question   {question}
# Command    eyeswap study run {file}
# Time       eyeswap study plan {file} tells, before anything is loaded
# Expect     write down what you expect before you run it

question: {question}

recipe:  # held fixed in all arms; every key is listed in docs/study-file.md, or by: eyeswap study fields
  data: {data}
  llm: {llm}  # a folder, or a Hub name such as Qwen/Qwen2.5-0.5B-Instruct
  connector: gelu-mlp
  num_epochs: 1
  global_batch: {global_batch}
  lr: {lr}
  precision: {precision}

arms:  # what is compared; an arm may also be {{backbone: NAME, tap: 3, geometry: letterbox-224}}
{arms}

# What arms may differ in; `eyeswap audit` fails on any other difference.
may_differ: [backbone]
benchmarks: [{benchmarks}]
# Several seeds tell the luck of a training run from what the backbone did.
seeds: [{seeds}]
"""
_MINIATURE = {
    "data": "{name: digits, num_train_images: 4000}  # drawn by eyeswap; or {folder: DIR}, see docs/data.md",
    "llm": SHIPPED_LLM,
    "global_batch": "16",
    "lr": "2e-3",
    "precision": "fp32  # bf16 on a GPU",
    "benchmarks": "vqav2, pope, tallyqa, refcoco, refcoco+, refcocog, ocid-ref",
    "seeds": "7, 8, 9",
}
_PUBLISHED = {
    "data": "{folder: data}  # with LLaVA's mix and the benchmarks below data/download, see docs/data.md",
    "llm": "lmsys/vicuna-7b-v1.5",
    "global_batch": "128",
    "lr": "2e-5",
    "precision": "bf16",
    "benchmarks": "vqav2, gqa, pope, refcoco, refcoco+, refcocog",
    "seeds": "7, 8, 9",
}


def new_study(path: Path, backbones: Sequence[str], *, miniature: bool) -> None:
    """Write a study file, unless it exists; it is read once before, so what is written can be run.

    Args:
        path: the file to write.
        backbones: one of each arm, at least two.
        miniature: whether it is to train on the embedded data set, with the LLM that comes with the package.

    Raises:
        SpecError: if the file exists, a backbone does not, or there are fewer than two.
    """
    if path.exists():
        raise SpecError(f"{path} exists; choose another name, or edit it")
    if len(set(backbones)) < 2:
        raise SpecError("a study compares at least two backbones; `eyeswap backbones list` names them")
    if len({kebab(backbone) for backbone in backbones}) < len(backbones):
        raise SpecError(f"two arms would have one name; leave one of these out: {', '.join(backbones)}")
    arms = {kebab(backbone): backbone for backbone in backbones}
    width = max(map(len, arms)) + 1
    text = _TEMPLATE.format(
        question=f"Which of {len(backbones)} vision backbones serves a VLM best, all else equal?",
        file=path,
        arms="\n".join(f"  {name + ':':{width}} {backbone}" for name, backbone in arms.items()),
        **(_MINIATURE if miniature else _PUBLISHED),
    )
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        write_text(trial, text)
        try:
            load_study(trial)
        except SpecError as problem:
            raise SpecError(str(problem).replace(str(trial), str(path))) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
