"""Training on a GPU: the losses of the CPU, the variable-length kernel, and an ending that an interruption leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_run import fresh, losses, recipe, tiny_data

from eyeswap.processes import join
from eyeswap.recipe import Execution
from eyeswap.training.attention import _attend
from eyeswap.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PACKS = {"tokens_per_pass": 48}


def run_on_gpu(llm: Path, folder: Path, chosen, execution: Execution, report=lambda done, note: None) -> None:
    with join():
        model = fresh(llm)
        train(model, tiny_data(model, chosen), chosen, folder, "d", execution=execution, report=report)


@pytest.mark.parametrize("recompute", [False, True, "elementwise"])
def test_a_gpu_has_the_losses_of_a_cpu(tiny_llm: Path, tmp_path: Path, monkeypatch, recompute):
    chosen, execution = recipe(lr=1e-3), Execution(**PACKS, recompute=recompute)
    run_on_gpu(tiny_llm, tmp_path / "gpu", chosen, execution)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = fresh(tiny_llm)
    train(model, tiny_data(model, chosen), chosen, tmp_path / "cpu", "d", execution=execution)
    np.testing.assert_allclose(losses(tmp_path / "gpu"), losses(tmp_path / "cpu"), rtol=1e-4)


def test_bf16_on_a_gpu_comes_close(tiny_llm: Path, tmp_path: Path):
    run_on_gpu(tiny_llm, tmp_path / "exact", recipe(lr=1e-3), Execution(**PACKS))
    run_on_gpu(tiny_llm, tmp_path / "bf16", recipe(lr=1e-3, precision="bf16"), Execution(**PACKS))
    np.testing.assert_allclose(losses(tmp_path / "bf16"), losses(tmp_path / "exact"), rtol=2e-2)


def test_an_interrupted_run_goes_on(tiny_llm: Path, tmp_path: Path):
    def interrupt(done: int, note: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    often = Execution(**PACKS, checkpoint_every_s=0)
    run_on_gpu(tiny_llm, tmp_path / "whole", recipe(lr=1e-3), often)
    with pytest.raises(KeyboardInterrupt):
        run_on_gpu(tiny_llm, tmp_path / "cut", recipe(lr=1e-3), often, interrupt)
    run_on_gpu(tiny_llm, tmp_path / "cut", recipe(lr=1e-3), often)
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-5)


@pytest.mark.parametrize("groups", [8, 2])
def test_the_variable_length_kernel_sees_one_conversation_alone(groups: int):
    torch.manual_seed(0)
    lengths = (130, 1, 77, 300)
    starts = torch.tensor([0, 130, 131, 208, 508], dtype=torch.int32, device="cuda")
    query = torch.randn(1, 8, 508, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    key, value = (
        torch.randn(1, groups, 508, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2)
    )
    out, _ = _attend(torch.nn.Identity(), query, key, value, None, cu_seq_lens_q=starts, max_length_q=300)
    parts = zip(*(one.float().split(lengths, dim=2) for one in (query, key, value)), strict=True)
    each = [F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=groups != 8) for q, k, v in parts]
    expected = torch.cat(each, dim=2).transpose(1, 2)
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=2e-2)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value), retain_graph=True)
    given = torch.autograd.grad((out.float() * weight).sum(), (query, key, value))
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=5e-2)
