"""Shard a model over the processes that train together (`eyeswap.processes`).

FSDP2 shards connector and LLM over all processes and reduces gradients. The LLM's weights are read from its files after
that, by each process its own rows, so that none holds the whole LLM. With ``execution.shard_over`` only so many
processes share one copy of it (HSDP). The frozen backbone is not sharded: each process has a complete copy. One process
on a CPU is not sharded; one GPU is a group of one, so that it keeps float32 master weights and computes in bf16 like
several GPUs.
"""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from eyeswap.errors import SpecError
from eyeswap.processes import Ranks
from eyeswap.recipe import Recipe
from eyeswap.training.attention import decoder_layers
from eyeswap.training.learner import Learner
from eyeswap.vlm.deferred import DeferredWeights


def shard(
    learner: Learner,
    recipe: Recipe,
    device: torch.device,
    mesh: DeviceMesh | None,
    weights: DeferredWeights | None = None,
) -> None:
    """Shard a learner in place, layer by layer, so that only one layer at a time is gathered.

    Weights, gradients and optimizer state stay float32. With precision bf16 a layer computes in bf16, and gradients are
    reduced in float32.

    Args:
        learner: the learner.
        recipe: its precision counts.
        device: where this process computes.
        mesh: the processes, all of which call this function; None without a group, then nothing is sharded.
        weights: of an LLM whose parameters are on the meta device; each process then reads its own rows.
    """
    if weights is None:
        learner.to(device)
    if mesh is None:
        return
    bf16 = torch.bfloat16 if recipe.precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=torch.float32)
    for layer in decoder_layers(learner.vlm.llm):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    learner.tuned.to(device)
    fully_shard(learner, mesh=mesh, mp_policy=policy, ignored_params=set(learner.tuned.parameters()))
    if weights is not None:
        weights.fill(learner.vlm.llm, functools.partial(_own_rows, weights))


def mesh_of(ranks: Ranks, shard_over: int | None = None) -> DeviceMesh | None:
    """Return the mesh of this process's group, ``[shard]`` or ``[replicate, shard]``; None without a group.

    Args:
        ranks: the processes.
        shard_over: number of processes that hold one copy of the weights together; None: all.

    Raises:
        SpecError: if the number of processes is not a multiple of ``shard_over``.
    """
    if not dist.is_initialized():
        return None
    size = ranks.size if shard_over is None else shard_over
    if ranks.size % size:
        raise SpecError(f"execution.shard_over: {size} does not divide the {ranks.size} processes of this run")
    if size == ranks.size:
        return init_device_mesh(ranks.device.type, (size,))
    return init_device_mesh(ranks.device.type, (ranks.size // size, size), mesh_dim_names=("replicate", "shard"))


def _own_rows(weights: DeferredWeights, name: str, parameter: Tensor) -> DTensor:
    """Return a parameter sharded like ``parameter``, with this process's rows read from the files, in float32."""
    assert isinstance(parameter, DTensor)
    mesh = parameter.device_mesh
    if name in weights.grown:
        whole = weights.grown[name]
        whole = torch.empty(parameter.shape, device=mesh.device_type) if whole is None else whole.to(mesh.device_type)
        return distribute_tensor(whole, mesh, parameter.placements)  # values of the first process
    dimension = mesh.ndim - 1
    rows = -(-parameter.shape[0] // mesh.size(dimension))
    start = min(rows * mesh.get_local_rank(dimension), parameter.shape[0])
    own = weights.read(name, start, start + rows).to(mesh.device_type, torch.float32)
    return DTensor.from_local(
        own, mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model, or the learner around it, is sharded."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def reduce_gradients(learner: Learner, now: bool) -> None:
    """Set whether the next backward pass of a sharded learner reduces gradients or only accumulates them locally.

    Local gradients are unsharded float32, 4 bytes per parameter, until they are reduced.
    """
    assert isinstance(learner, FSDPModule)
    learner.set_requires_gradient_sync(now)


def clip_gradients(learner: Learner, most: float) -> float:
    """Scale the gradients so that their global norm is at most ``most``; return the norm before.

    Blocks of the backbone are not sharded, and torch does not mix sharded and other tensors in one norm.
    """
    tuned = set(learner.tuned.parameters())
    if not tuned or not is_sharded(learner):
        return float(unsharded(nn.utils.clip_grad_norm_(learner.parameters(), most)))
    parts = [[parameter for parameter in learner.parameters() if (parameter in tuned) == own] for own in (False, True)]
    grads = [[parameter.grad for parameter in part if parameter.grad is not None] for part in parts]
    norm = torch.stack([unsharded(nn.utils.get_total_norm(part)) for part in grads]).norm()
    for part in parts:
        nn.utils.clip_grads_with_norm_(part, most, norm)
    return float(norm)


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
