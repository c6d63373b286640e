"""A training step on tensors without data holds what a real one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from transformers import LlamaConfig

from eyeswap.errors import EnvironmentProblem, SpecError
from eyeswap.planning.dry_run import Pass, RankStep, dry_run, largest_pass, llm_config
from eyeswap.planning.footprint import Footprint
from eyeswap.recipe import DigitsData, Execution, Recipe
from eyeswap.vlm.deferred import build_without_weights

FOOTPRINT = Footprint(grid=(14, 14), width=64, parameters=1000, parameters_run=1000, flops=0, canvas=(224, 224))
PASS = Pass(rows=1, text=700, images=1)


@pytest.fixture(scope="module")
def llm(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of 15M parameters beside a tokenizer; no weights."""
    folder = tmp_path_factory.mktemp("llm")
    for file in tiny_llm.glob("tok*"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=4, vocab_size=2048
    )
    config.save_pretrained(folder)
    return folder


def stepped(llm: Path | str, ranks: int, precision: str = "fp32", **execution: object) -> RankStep:
    recipe = Recipe(data=DigitsData(), llm=str(llm), precision=precision)
    return dry_run(recipe, Execution(**execution), "gelu-mlp", FOOTPRINT, ranks, PASS)


@pytest.mark.extended
def test_the_peak_is_that_of_real_processes(llm: Path, tmp_path: Path):
    command = [sys.executable, str(Path(__file__).with_name("measured_step.py")), str(llm), str(tmp_path)]
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # returns freed memory at once
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for ranks in (1, 2):
        step = stepped(llm, ranks)
        expected = step.peak - step.ahead - step.backbone  # measured on a CPU, without a backbone
        for rank in range(ranks):
            measured = json.loads((tmp_path / f"{ranks}-{rank}.json").read_text())
            assert measured == pytest.approx(expected, rel=0.1), (ranks, rank)


def test_shares_shrink_with_the_processes_and_copies(llm: Path):
    numel = sum(parameter.numel() for parameter in build_without_weights(llm_config(str(llm))).parameters())
    connector = 64 * 512 + 512 + 512 * 512 + 512
    eight, halves = stepped(llm, 8), stepped(llm, 8, shard_over=4)
    assert eight.parameters == pytest.approx(4 * (numel + connector) / 8, rel=1e-3)
    assert eight.optimizer == pytest.approx(2 * eight.parameters, rel=1e-3)
    assert halves.parameters == pytest.approx(2 * eight.parameters, rel=1e-3)
    assert halves.collectives["allreduce"][1] == pytest.approx(halves.parameters, rel=1e-3)  # between the copies
    gathered, reduced = eight.collectives["allgather"], eight.collectives["reduce_scatter"]
    assert reduced[1] == pytest.approx(4 * (numel + connector), rel=1e-2)
    assert reduced[1] < gathered[1] < 2 * reduced[1]  # every layer is gathered twice, the rest once
    assert not dist.is_initialized()
    with pytest.raises(SpecError, match=r"shard_over: 3 does not divide the 8 processes"):
        stepped(llm, 8, shard_over=3)


@pytest.mark.extended
def test_recomputing_keeps_less(llm: Path):
    plain, layers = (stepped(llm, 8, recompute=how).activations for how in (False, True))
    assert layers < 0.6 * plain


def test_a_known_llm_without_files_is_a_llama_of_its_size():
    llm = build_without_weights(llm_config("lmsys/vicuna-7b-v1.5"))
    assert sum(parameter.numel() for parameter in llm.parameters()) == 6_738_415_616
    with pytest.raises(EnvironmentProblem, match="its sizes are unknown"):
        llm_config("organisation/unknown")


def test_the_largest_pass_is_a_packed_row_or_the_longest_conversations():
    recipe = Recipe(data=DigitsData(), llm="x", micro_batch=16, max_text_tokens=2048)
    assert largest_pass(recipe, Execution(), 196, 300) == Pass(16, 2048, 16)
    assert largest_pass(recipe, Execution(tokens_per_pass=8192), 196, 300) == Pass(1, 8192 - 16 * 196, 16)
