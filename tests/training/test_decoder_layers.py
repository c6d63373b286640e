"""Recomputing saves memory and changes no number; what is cheap is computed twice, what is costly need not be."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_run import fresh
from torch.utils._python_dispatch import TorchDispatchMode

from eyeswap.training.attention import decoder_layers, recomputed


class Calls(TorchDispatchMode):
    """Counts the calls of every operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.seen[function.__name__.split(".")[0]] += 1
        return function(*arguments, **(keywords or {}))


def gradients(vlm, how) -> tuple[list[torch.Tensor], Counter[str], int]:
    """Return gradients, the calls of operators, and the numbers kept for the backward pass."""
    vlm.zero_grad()
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    ids = torch.arange(10, 42).reshape(2, 16)
    with Calls() as calls, recomputed(vlm.llm, how):
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = vlm.hidden_states(ids).square().sum()
        loss.backward()
    return [one.grad.clone() for one in vlm.llm.parameters() if one.grad is not None], calls.seen, sum(kept.values())


@pytest.fixture
def vlm(tiny_llm: Path):
    return fresh(tiny_llm)


def test_gradients_stay_and_memory_shrinks(vlm):
    plain, plain_calls, plain_kept = gradients(vlm, False)
    for how in (True, "elementwise"):
        again, calls, kept = gradients(vlm, how)
        assert all(one.equal(other) for one, other in zip(plain, again, strict=True))
        assert kept < plain_kept  # besides what elementwise keeps itself
        assert calls["silu"] == 2 * plain_calls["silu"]  # cheap work is done twice


def test_costly_work_is_done_once_if_its_results_are_kept(vlm):
    _, plain, _ = gradients(vlm, False)
    _, elementwise, _ = gradients(vlm, "elementwise")
    _, whole, _ = gradients(vlm, True)
    costly = [name for name in plain if name == "mm" or "dot_product" in name]
    assert len(costly) == 3  # products, attention, its backward pass
    for name in costly:
        assert elementwise[name] == plain[name]
    assert whole["mm"] == plain["mm"] + 6  # of one layer: q, k, v, o, gate, up; nobody asks for down


def test_the_layers_are_as_before(vlm):
    with recomputed(vlm.llm, "elementwise"):
        assert all("forward" in vars(layer) for layer in decoder_layers(vlm.llm))
    assert len(decoder_layers(vlm.llm)) == 1
    assert all("forward" not in vars(layer) for layer in decoder_layers(vlm.llm))
