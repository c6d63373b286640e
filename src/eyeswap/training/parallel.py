"""How a model is shared out over the processes that train together (`eyeswap.processes`).

FSDP2 shards connector and LLM over all of them, and reduces gradients. The frozen backbone lies outside of what is
sharded: each process has all of it. One process on a CPU has nothing to shard and stays plain; one GPU is a group of
one, so that it holds float32 masters and computes in bf16 like many.
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
