"""One training step of a group of processes on tensors without data: what each process would hold and exchange.

The LLM is built, sharded and stepped by the code that trains it, as the first process of torch's fake process group, on
FakeTensors. torch's memory tracker follows them. Nothing is allocated, so a 7B model on 64 processes takes a minute on
one CPU core.

Four things differ from a training. Visual tokens are concatenated with the text instead of scattered into it; packed
conversations attend as one sequence, which takes as much memory; clipping and the update, which work in place, are left
out; and as FSDP does not gather the next layer ahead on a CPU, as it does on a GPU, that layer is added.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eyeswap.errors import RunError
from eyeswap.planning.cost import LanguageModel, config_path, find_language_model
from eyeswap.planning.footprint import Footprint
from eyeswap.processes import Ranks
from eyeswap.recipe import Execution, Recipe
from eyeswap.shipped import llm_path
from eyeswap.training.attention import decoder_layers, recomputed
from eyeswap.training.learner import Learner, summed_cross_entropy
from eyeswap.training.lora import add_adapters
from eyeswap.training.parallel import mesh_of, reduce_gradients, shard
from eyeswap.training.step import build_optimizer
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.deferred import DeferredWeights, build_without_weights


@dataclass(frozen=True)
class Pass:
    """The size of one forward and backward pass of one process.

    Attributes:
        rows: sequences.
        text: text tokens of each.
        images: images in all of them.
    """

    rows: int
    text: int
    images: int


@dataclass(frozen=True)
class RankStep:
    """What one process holds at the peak of a training step, in bytes, and what it exchanges in one pass.

    Attributes:
        ranks: processes.
        parameters: its share of the weights.
        gradients: its share of the gradients at the peak, which may come before the last of them.
        optimizer: its share of AdamW's moments.
        gathered: weights and gradients of whole layers, and buffers of collectives, at the peak.
        ahead: the largest layer, which a GPU gathers while another computes; 0 on one process.
        activations: everything else at the peak.
        backbone: the frozen backbone, which every process holds whole.
        collectives: number and bytes of each kind of collective, by name.
        tokens: positions of the pass.
    """

    ranks: int
    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    ahead: int
    activations: int
    backbone: int
    collectives: dict[str, tuple[int, int]]
    tokens: int

    @property
    def peak(self) -> int:
        """Bytes of the process at the peak, without the backbone's own activations."""
        held = self.parameters + self.gradients + self.optimizer
        return held + self.gathered + self.ahead + self.activations + self.backbone


def largest_pass(recipe: Recipe, execution: Execution, visual: int, text: float) -> Pass:
    """Return the largest pass of a process: a packed row, or a micro-batch of the longest conversations.

    Args:
        recipe: global batch, micro-batch and longest text.
        execution: whether passes are packed.
        visual: visual tokens per image that the LLM sees.
        text: mean text tokens per conversation, which decides how many conversations a packed row holds.
    """
    if execution.tokens_per_pass is None:
        rows = recipe.micro_batch or recipe.global_batch
        return Pass(rows, recipe.max_text_tokens, rows)
    images = max(1, int(execution.tokens_per_pass // (visual + text)))
    return Pass(1, max(2, execution.tokens_per_pass - images * visual), images)


def dry_run(
    recipe: Recipe, execution: Execution, connector: str, footprint: Footprint, ranks: int, largest: Pass
) -> RankStep:
    """Take one training step of the first of many processes on tensors without data.

    Args:
        recipe: the recipe; its LLM's ``config.json`` is read, or a Llama of the same sizes stands in for a known LLM.
        execution: how the machine trains.
        connector: kind of the connector.
        footprint: footprint of the frozen backbone.
        ranks: number of processes.
        largest: the pass.

    Raises:
        EnvironmentProblem: if the sizes of the LLM are unknown on this machine.
        RunError: if this process belongs to a process group already.
        SpecError: if ``execution.shard_over`` does not divide the processes.
    """
    if dist.is_initialized():
        raise RunError("--dry-run --ranks takes the place of a process group: run it without torchrun")
    config = llm_config(recipe.llm)
    with _fake_group(ranks) as group:
        llm = build_without_weights(config)
        _choose_trained(llm, recipe)
        mesh, weights = mesh_of(group, execution.shard_over), _NoWeights.of(llm)
        ahead = 0 if ranks == 1 else _largest_layer(llm, recipe)
        with FakeTensorMode(allow_non_fake_inputs=True), recomputed(llm, execution.recompute):
            layers = build_connector(connector, footprint.width, config.hidden_size, 0, grid=footprint.grid)
            learner = _ShapeLearner(llm, layers)
            shard(learner, recipe, group.device, mesh, weights)
            measured = _step(learner, recipe, execution, footprint, largest)
    return replace(measured, ranks=ranks, ahead=ahead, backbone=4 * footprint.parameters)


def llm_config(name: str) -> Any:
    """Return the configuration of an LLM: its own if it is on this machine, otherwise of a Llama of the same sizes.

    Raises:
        EnvironmentProblem: if its sizes are unknown.
    """
    from transformers import LlamaConfig

    from eyeswap.vlm.llm import load_config

    path = config_path(name, llm_path(name))
    if path is not None:
        return load_config(path.parent)
    sizes = find_language_model(name)
    heads = max(1, sizes.width // 128)
    return LlamaConfig(
        hidden_size=sizes.width, intermediate_size=_intermediate(sizes), num_hidden_layers=sizes.layers,
        num_attention_heads=heads, num_key_value_heads=heads, vocab_size=sizes.vocabulary,
        tie_word_embeddings=sizes.parameters == sizes.multiplied,
    )  # fmt: skip


def _intermediate(sizes: LanguageModel) -> int:
    """Return the width of the MLP for which a Llama has this many parameters."""
    in_layers = sizes.multiplied - sizes.vocabulary * sizes.width
    norms = 2 * sizes.width
    return round((in_layers / sizes.layers - 4 * sizes.width**2 - norms) / (3 * sizes.width))


def _choose_trained(llm: nn.Module, recipe: Recipe) -> None:
    """Freeze what the recipe does not train, as a run does."""
    if recipe.trained == "connector":
        llm.requires_grad_(False)
    if recipe.adapter_rank is not None:
        add_adapters(llm, recipe.adapter_rank, seed=0)


class _ShapeLearner(Learner):
    """A learner without a processor, and without the count of image ids, which FakeTensors do not have."""

    def __init__(self, llm: Any, connector: nn.Module) -> None:
        nn.Module.__init__(self)
        self.vlm: Any = nn.Module()
        self.vlm.llm, self.vlm.connector, self.tuned = llm, connector, nn.ModuleList()

    def forward(self, text: Tensor, visual: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss of sequences of visual tokens ``[I, N, D]`` and text ``[B, T]``, a scalar of shape ``[]``."""
        llm = self.vlm.llm
        embedded = llm.get_input_embeddings()(text)
        seen = self.vlm.connector(visual.to(next(self.vlm.connector.parameters()).dtype)).to(embedded.dtype)
        seen = seen.reshape(len(text), -1, seen.shape[-1])  # [B, N, D], or [1, I * N, D] in a packed row
        hidden = llm.base_model(inputs_embeds=torch.cat([seen, embedded], dim=1), use_cache=False).last_hidden_state
        at_text = hidden[:, seen.shape[1] :].flatten(0, 1)
        return summed_cross_entropy(at_text, llm.get_output_embeddings(), targets)


@dataclass(frozen=True)
class _NoWeights(DeferredWeights):
    """Weights of the shapes of an LLM, without data."""

    shapes: Mapping[str, torch.Size] = field(default_factory=dict)

    @classmethod
    def of(cls, llm: nn.Module) -> _NoWeights:
        """Return weights for every parameter of an LLM that is on the meta device."""
        originals = {name.replace(".base_layer.", "."): at.shape for name, at in llm.named_parameters() if at.is_meta}
        return cls(dict.fromkeys(originals, Path()), shapes=originals)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        rows, *others = self.shapes[name]
        return torch.empty(len(range(rows)[start:stop]), *others, dtype=torch.bfloat16)


class _Collectives(TorchDispatchMode):
    """Counts collectives and the bytes of the whole tensors they gather or reduce."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[str, tuple[int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func.name().partition("::")[2].strip("_").removesuffix("_base")
            count, size = self.seen.get(name, (0, 0))
            largest = max((leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), default=0)
            self.seen[name] = count + 1, size + largest
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _fake_group(ranks: int) -> Iterator[Ranks]:
    """Make this process the first of a group in which nothing is exchanged, for the duration of the block."""
    store = importlib.import_module("torch.testing._internal.distributed.fake_pg").FakeStore()
    dist.init_process_group("fake", rank=0, world_size=ranks, store=store)
    try:
        yield Ranks(0, ranks, torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def _step(learner: _ShapeLearner, recipe: Recipe, execution: Execution, footprint: Footprint, size: Pass) -> RankStep:
    """Take a step of as few passes as show its peak, and return what it held."""
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    optimizer = build_optimizer(learner, recipe.weight_decay)
    learner.vlm.llm.train()
    text = torch.zeros(size.rows, size.text, dtype=torch.long)
    visual = torch.empty(size.images, math.prod(footprint.grid), footprint.width)
    passes = 2 if execution.reduce_once else 1  # gradients of the first are kept whole during the second
    collectives = _Collectives()
    with FSDPMemTracker(learner) as tracker:
        for number in range(passes):
            reduce_gradients(learner, number == passes - 1)
            with collectives:
                learner(text, visual, text.flatten()).backward()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    held = {getattr(kind, "value", kind): bytes_held for kind, bytes_held in snapshot.items()}
    parameters, gradients = (held[kind] for kind in ("Sharded Param", "Sharded Grad"))
    gathered = sum(held[kind] for kind in ("Unsharded Param", "Unsharded Grad", "All Gather", "Reduce Scatter"))
    return RankStep(
        ranks=1,
        parameters=parameters,
        gradients=gradients,
        optimizer=sum(_local_bytes(value) for state in optimizer.state.values() for value in state.values()),
        gathered=gathered,
        ahead=0,
        activations=held["Total"] - gathered - parameters - gradients,
        backbone=0,
        collectives={name: (count // passes, total // passes) for name, (count, total) in collectives.seen.items()},
        tokens=size.rows * size.text + size.images * learner.vlm.connector.tokens_of(footprint.grid),
    )


def _local_bytes(tensor: Tensor) -> int:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes


def _largest_layer(llm: nn.Module, recipe: Recipe) -> int:
    """Return the bytes of the largest decoder layer in the precision of the forward pass."""
    numel = max(sum(parameter.numel() for parameter in layer.parameters()) for layer in decoder_layers(llm))
    return numel * (2 if recipe.precision == "bf16" else 4)
