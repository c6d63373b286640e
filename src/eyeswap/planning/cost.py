"""The cost of training by formula: parameters, FLOPs, memory and time, without loading weights.

The count is the usual one. Training takes 6 FLOPs per token for each parameter in a matrix product (2 forward, 4
backward). Causal attention adds ``6 * layers * width`` FLOPs per pair of positions: 2 products of 2 FLOPs each, halved
by the causal mask, times 3 for forward and backward. The frozen backbone runs forward once per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.connector_name import ConnectorName, Grid
from eyeswap.errors import EnvironmentProblem
from eyeswap.files import read_json
from eyeswap.planning.hardware import TERA, Gpu
from eyeswap.planning.language_models import SIZES
from eyeswap.shipped import SHIPPED_LLM

GIB = 2**30
# Bytes per trained parameter: bf16 weight and gradient, float32 master copy and two moments; or all four in float32.
STATE_BYTES = 16
FROZEN_BYTES = 2  # per parameter of the frozen backbone, bf16, on every GPU
# Bytes per token, layer and channel that autograd keeps for the backward pass, measured on transformers' Llama in bf16
# with fused attention and an MLP 2.7 times as wide as the layer.
ACTIVATION_BYTES = 47
ELEMENTWISE_BYTES = 25  # the same if everything but matrix products and attention is recomputed
CHECKPOINT_BYTES = 2  # the same if every layer is recomputed from its input
USABLE_MEMORY = 0.95  # share of the memory; allocator and driver take the rest


@dataclass(frozen=True)
class LanguageModel:
    """The sizes of a language model that determine its cost.

    Attributes:
        name: name in the recipe.
        parameters: number of parameters.
        multiplied: parameters that every token meets in a matrix product: all but an untied input embedding.
        width: hidden size.
        layers: number of blocks.
        positions: longest supported sequence; None if there is no limit.
        vocabulary: rows of the output head.
        attention_layers: blocks with attention; None if all have it.
    """

    name: str
    parameters: int
    multiplied: int
    width: int
    layers: int
    positions: int | None
    vocabulary: int
    attention_layers: int | None = None


KNOWN = {name: LanguageModel(name, *sizes) for name, sizes in SIZES.items()} | {
    SHIPPED_LLM: LanguageModel(SHIPPED_LLM, 893_056, 893_056, 128, 4, 1024, 696, attention_layers=4)
}


def find_language_model(name: str, folder: Path | None = None) -> LanguageModel:
    """Return the sizes of a language model, from a built-in table or its ``config.json`` on this machine.

    Args:
        name: name in the recipe.
        folder: folder of the model; by default the name is taken as a path.

    Raises:
        EnvironmentProblem: if there is no ``config.json`` on this machine; nothing is downloaded.
    """
    if name in KNOWN:
        return KNOWN[name]
    path = config_path(name, folder or Path(name))
    if path is None:
        raise EnvironmentProblem(
            f"llm {name}: its sizes are unknown; give a local folder, or download its config.json once with "
            f"`hf download {name} config.json`"
        )
    return _sizes_on_meta(name, path)


def config_path(name: str, folder: Path) -> Path | None:
    """Return the path of an LLM's ``config.json`` in a folder or the Hub's cache; None if it is not on this machine."""
    if (folder / "config.json").is_file():
        return folder / "config.json"
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached) if isinstance(cached, str) else None


def _sizes_on_meta(name: str, config_path: Path) -> LanguageModel:
    """Build the model on the meta device and read off its sizes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from eyeswap.vlm.llm import num_attention_layers, num_positions

    raw = read_json(config_path)
    try:
        config: Any = AutoConfig.from_pretrained(config_path.parent)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        layers = int(config.num_hidden_layers)
        positions, attention_layers = num_positions(config), num_attention_layers(config)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EnvironmentProblem(f"{config_path}: not a causal language model: {str(error).splitlines()[0]}") from None
    embedding = model.get_input_embeddings().weight
    parameters = sum(parameter.numel() for parameter in model.parameters())
    is_tied = bool(raw.get("tie_word_embeddings", getattr(config, "tie_word_embeddings", False)))
    multiplied = parameters if is_tied else parameters - embedding.numel()
    width, vocabulary = embedding.shape[1], embedding.shape[0]
    return LanguageModel(name, parameters, multiplied, width, layers, positions, vocabulary, attention_layers)


@dataclass(frozen=True)
class ConnectorSize:
    """What a connector makes of an image, and its cost.

    Attributes:
        tokens: visual tokens that the LLM sees.
        parameters: number of weights and biases.
        multiplied: multiplications per image.
    """

    tokens: int
    parameters: int
    multiplied: int

    @property
    def multiplied_per_token(self) -> float:
        """Multiplications per token that the LLM sees; the parameters of an MLP."""
        return self.multiplied / self.tokens


def connector_size(kind: str, grid: Grid, vision_width: int, llm_width: int) -> ConnectorSize:
    """Return the size of a connector for a grid of visual tokens, see `eyeswap.connector_name`.

    A custom one is built and run, which needs torch.

    Raises:
        SpecError: if it fails.
    """
    name = ConnectorName.parse(kind)
    if name.own is not None:
        from eyeswap.planning.count import measure_connector

        return measure_connector(kind, grid, vision_width, llm_width)
    return ConnectorSize(
        tokens=name.num_tokens(grid),
        parameters=name.parameters(vision_width, llm_width),
        multiplied=name.multiplied(grid, vision_width, llm_width),
    )


def training_flops(
    llm: LanguageModel, connector: float, visual_tokens: int, text_tokens: float, *, adapters_only: bool = False
) -> float:
    """Return the FLOPs of one training sample, forward and backward, without the frozen backbone.

    Args:
        llm: the language model.
        connector: multiplications of the connector per visual token that the LLM sees: the parameters of an MLP.
        visual_tokens: visual tokens per image that the LLM sees.
        text_tokens: text tokens per conversation.
        adapters_only: whether the LLM's own weights get no gradient, which saves a third of their FLOPs.
    """
    length = visual_tokens + text_tokens
    attention_layers = llm.layers if llm.attention_layers is None else llm.attention_layers
    attention = 6 * attention_layers * llm.width * length**2
    weights = (4 if adapters_only else 6) * llm.multiplied * length
    return weights + attention + 6 * connector * visual_tokens


def prefill_flops(llm: LanguageModel, connector: float, visual_tokens: int, text_tokens: float) -> float:
    """Return the FLOPs of prefilling one question with its image, without the backbone."""
    return training_flops(llm, connector, visual_tokens, text_tokens) / 3


def gpu_hours(flops: float, gpu: Gpu, mfu: float) -> float:
    """Return the GPU-hours that ``flops`` take at a model FLOPs utilization of ``mfu`` (0..1)."""
    return flops / (mfu * gpu.peak_tflops * TERA) / 3600


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU during training.

    Attributes:
        states_gib: its shard of weights, gradients and optimizer state, and the complete frozen backbone, GiB.
        free_gib: the rest of the usable memory, GiB; negative if the states do not fit.
        plain_tokens: tokens of one forward and backward pass that fit without recomputation.
        elementwise_tokens: the same if everything but matrix products and attention is recomputed.
        checkpointed_tokens: the same if every layer is recomputed from its input.
        fewest_gpus: smallest number of such GPUs that can hold the states; None if no number can.
    """

    states_gib: float
    free_gib: float
    plain_tokens: int
    elementwise_tokens: int
    checkpointed_tokens: int
    fewest_gpus: int | None


def training_memory(
    llm: LanguageModel, connector: int, backbone: int, gpu: Gpu, num_gpus: int, *, adapters_only: bool = False
) -> Memory:
    """Return the memory of one of ``num_gpus`` GPUs: states are sharded over all of them, the backbone is replicated.

    Args:
        llm: the language model.
        connector: number of parameters of the connector.
        backbone: number of parameters of the frozen backbone.
        gpu: the GPU.
        num_gpus: number of GPUs that share the states.
        adapters_only: whether the LLM's own weights are frozen; the small adapters themselves are not counted.
    """
    llm_bytes = FROZEN_BYTES if adapters_only else STATE_BYTES
    trained = (llm_bytes * llm.parameters + STATE_BYTES * connector) / GIB
    frozen = FROZEN_BYTES * backbone / GIB
    usable = USABLE_MEMORY * gpu.memory_gib
    states = trained / num_gpus + frozen
    free = usable - states
    plain, elementwise = (size * llm.width * llm.layers for size in (ACTIVATION_BYTES, ELEMENTWISE_BYTES))
    checkpointed = CHECKPOINT_BYTES * llm.width * llm.layers + ACTIVATION_BYTES * llm.width
    free_bytes = max(free, 0.0) * GIB
    fewest = None if frozen >= usable else max(1, -int(-trained // (usable - frozen)))
    plain, elementwise, checkpointed = (int(free_bytes // size) for size in (plain, elementwise, checkpointed))
    return Memory(states, free, plain, elementwise, checkpointed, fewest)
