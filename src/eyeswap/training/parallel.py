"""Shard a model over the processes that train together (`eyeswap.processes`).

FSDP2 shards connector and LLM over all processes and reduces gradients. The frozen backbone is not sharded: each
process has a complete copy. One process on a CPU is not sharded; one GPU is a group of one, so that it keeps float32
master weights and computes in bf16 like several GPUs.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from eyeswap.processes import Ranks
from eyeswap.recipe import Recipe
from eyeswap.training.attention import decoder_layers
from eyeswap.training.learner import Learner


def shard(learner: Learner, recipe: Recipe, ranks: Ranks) -> None:
    """Shard a learner in place, layer by layer, so that only one layer at a time is gathered.

    Weights, gradients and optimizer state stay float32. With precision bf16 a layer computes in bf16, and gradients are
    reduced in float32.
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
    """Return whether a learner is sharded."""
    return isinstance(learner, FSDPModule)


def reduce_gradients(learner: Learner, now: bool) -> None:
    """Set whether the next backward pass of a sharded learner reduces gradients or only accumulates them locally.

    Local gradients are unsharded float32, 4 bytes per parameter, until they are reduced.
    """
    assert isinstance(learner, FSDPModule)
    learner.set_requires_gradient_sync(now)


def unsharded(tensor: Tensor) -> Tensor:
    """Gather a tensor ``[...]`` from all processes, each of which must call this; plain tensors are returned as is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def unsharded_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Gather the weights of a model on the CPU; every process must call this, but only some need to ``keep`` them.

    Tied weights remain one tensor.
    """
    state, gathered = {}, dict[int, Tensor]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in gathered:
            full = unsharded(tensor.detach())
            gathered[id(tensor)] = full.cpu() if keep else full.new_empty(0)
        state[name] = gathered[id(tensor)]
    return state if keep else {}
