"""One process or many: who takes part, and how the model is shared out.

Under torchrun every process calls `join`; FSDP2 then shards connector and LLM over all of them, and reduces gradients.
The frozen backbone lies outside of what is sharded: each process has all of it. One process on a CPU has nothing to
shard and stays plain; one GPU is a group of one, so that it holds float32 masters and computes in bf16 like many.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from eyeswap.recipe import Recipe
from eyeswap.training.attention import decoder_layers
from eyeswap.training.learner import Learner

_PATIENCE = timedelta(hours=12)  # one process may evaluate while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: its number; 0 writes files.
        size: how many there are.
        device: what it computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Return the sum of each value over all processes."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(together)
        return [float(value) for value in together]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process go through a block, then the others, who find its files."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def this_process() -> Ranks:
    """Return this process among those that joined."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")
    if not dist.is_initialized():
        return Ranks(0, 1, device)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


@contextlib.contextmanager
def join() -> Iterator[Ranks]:
    """Join the processes that torchrun started, or train alone, as long as the block lasts."""
    has_gpu, is_one_of_many = torch.cuda.is_available(), "RANK" in os.environ
    if dist.is_initialized() or not (has_gpu or is_one_of_many):
        yield this_process()
        return
    alone: dict[str, Any] = {} if is_one_of_many else {"store": HashStore(), "rank": 0, "world_size": 1}
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=_PATIENCE, **alone)
    try:
        yield this_process()
    finally:
        dist.destroy_process_group()


def shard(learner: Learner, recipe: Recipe, ranks: Ranks) -> None:
    """Share a learner out, in place: layer by layer, so that one layer is whole at a time.

    Weights, gradients and optimiser state stay float32; with precision bf16 a layer computes in bf16, and gradients
    are summed over processes in float32.
    """
    learner.to(ranks.device)
    if not dist.is_initialized():
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    bf16 = torch.bfloat16 if recipe.precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=torch.float32)
    for layer in decoder_layers(learner.vlm.llm):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(learner, mesh=mesh, mp_policy=policy)


def is_sharded(learner: Learner) -> bool:
    """Return whether a learner was shared out."""
    return isinstance(learner, FSDPModule)


def reduce_gradients(learner: Learner, now: bool) -> None:
    """Say whether the next backward pass of a sharded learner sums gradients over processes, or adds to its own.

    What is added up is float32 and whole: 4 bytes a parameter, which sharding shares out only when it is reduced.
    """
    assert isinstance(learner, FSDPModule)
    learner.set_requires_gradient_sync(now)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its parts, ``[...]`` of the same shape; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Return the weights of a model with all their parts, on the CPU; all processes must ask, few need to ``keep``.

    A weight that stands under two names is one tensor here too.
    """
    state, gathered = {}, dict[int, Tensor]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in gathered:
            one = whole(tensor.detach())
            gathered[id(tensor)] = one.cpu() if keep else one.new_empty(0)
        state[name] = gathered[id(tensor)]
    return state if keep else {}
