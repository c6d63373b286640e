"""What training costs, on paper: parameters, FLOPs, memory and time. No weights are loaded and nothing is built.

The count is the usual one. A training step does 6 FLOPs a token for each parameter that is multiplied (2 forward, 4
backward), and causal attention adds ``6 * layers * width`` FLOPs for each pair of positions: half of the square, twice
a multiplication, three times for forward and backward. A frozen backbone runs forward once an image.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.errors import EnvironmentProblem
from eyeswap.files import read_json
from eyeswap.planning.hardware import TERA, Gpu
from eyeswap.recipe import ConnectorKind
from eyeswap.shipped import SHIPPED_LLM

GIB = 2**30
STATE_BYTES = 16  # a trained parameter: bf16 weight and gradient, float32 master, two moments; or all four in float32
FROZEN_BYTES = 2  # a parameter of the frozen backbone, bf16, on every GPU
# A token, layer and channel keep so many bytes until the backward pass: what autograd saves of a Llama of transformers
# in bf16 with fused attention, the MLP 2.7 times as wide as the layer.
ACTIVATION_BYTES = 47
ELEMENTWISE_BYTES = 25  # the same if all but matrix products and attention is recomputed
CHECKPOINT_BYTES = 2  # a token, layer and channel, if every layer is recomputed from its input
USABLE_MEMORY = 0.95  # the rest is the allocator's and the driver's


@dataclass(frozen=True)
class LanguageModel:
    """The sizes of a language model that decide its cost.

    Attributes:
        name: as in the recipe.
        parameters: all of them, as built.
        multiplied: those that meet every token in a matrix product: all but an input embedding of its own.
        width: channels of its embedding space.
        layers: number of blocks.
        positions: longest sequence it was made for; None if nothing in it ends.
        vocabulary: rows of the output head.
        attention_layers: blocks that attend; None if all do.
    """

    name: str
    parameters: int
    multiplied: int
    width: int
    layers: int
    positions: int | None
    vocabulary: int
    attention_layers: int | None = None


KNOWN = {
    model.name: model
    for model in (
        LanguageModel("lmsys/vicuna-7b-v1.5", 6_738_415_616, 6_607_343_616, 4096, 32, 4096, 32_000),
        LanguageModel("lmsys/vicuna-13b-v1.5", 13_015_864_320, 12_852_024_320, 5120, 40, 4096, 32_000),
        LanguageModel(SHIPPED_LLM, 893_056, 893_056, 128, 4, 1024, 696, attention_layers=4),
    )
}


def find_language_model(name: str, folder: Path | None = None) -> LanguageModel:
    """Return the sizes of a language model: a known one's, else by its ``config.json`` on this machine.

    Args:
        name: as in the recipe.
        folder: where the model lies, if not where its name says.

    Raises:
        EnvironmentProblem: if there is no ``config.json`` here; nothing is downloaded.
    """
    if name in KNOWN:
        return KNOWN[name]
    path = config_path(name, folder or Path(name))
    if path is None:
        raise EnvironmentProblem(
            f"llm {name}: its sizes are not known here; give a local folder, or get its config.json once with "
            f"`hf download {name} config.json`"
        )
    return _built_without_memory(name, path)


def config_path(name: str, folder: Path) -> Path | None:
    """Return the ``config.json`` of an LLM in a folder, else in the Hub's cache; None if it is not on this machine."""
    if (folder / "config.json").is_file():
        return folder / "config.json"
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached) if isinstance(cached, str) else None


def _built_without_memory(name: str, config_path: Path) -> LanguageModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from eyeswap.vlm.llm import num_attention_layers, num_positions

    raw = read_json(config_path)
    try:
        config: Any = AutoConfig.from_pretrained(config_path.parent)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        layers, positions, attending = (
            int(config.num_hidden_layers),
            num_positions(config),
            num_attention_layers(config),
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EnvironmentProblem(f"{config_path}: not a causal language model: {str(error).splitlines()[0]}") from None
    embedding = model.get_input_embeddings().weight
    parameters = sum(parameter.numel() for parameter in model.parameters())
    is_tied = bool(raw.get("tie_word_embeddings", getattr(config, "tie_word_embeddings", False)))
    multiplied = parameters if is_tied else parameters - embedding.numel()
    width, vocabulary = embedding.shape[1], embedding.shape[0]
    return LanguageModel(name, parameters, multiplied, width, layers, positions, vocabulary, attending)


def connector_parameters(kind: ConnectorKind, vision_width: int, llm_width: int) -> int:
    """Return the number of parameters of a connector, weights and biases, see `eyeswap.vlm.connector`."""
    d, D = vision_width, llm_width
    widths = {"linear": (d, D), "gelu-mlp": (d, D, D), "fused-gelu-mlp": (d, 4 * d, D, D)}[kind]
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(widths))


def training_flops(
    llm: LanguageModel, connector: int, visual_tokens: int, text_tokens: float, *, adapters_only: bool = False
) -> float:
    """Return the FLOPs of one training sample, forward and backward, the frozen backbone aside.

    Args:
        llm: the language model.
        connector: number of parameters of the connector.
        visual_tokens: visual tokens of an image.
        text_tokens: text tokens of a conversation.
        adapters_only: whether the LLM's own weights get no gradient, which saves a third of their work.
    """
    length = visual_tokens + text_tokens
    attending = llm.layers if llm.attention_layers is None else llm.attention_layers
    attention = 6 * attending * llm.width * length**2
    weights = (4 if adapters_only else 6) * llm.multiplied * length
    return weights + attention + 6 * connector * visual_tokens


def prefill_flops(llm: LanguageModel, connector: int, visual_tokens: int, text_tokens: float) -> float:
    """Return the FLOPs of reading one question with its image, forward only, the backbone aside."""
    return training_flops(llm, connector, visual_tokens, text_tokens) / 3


def gpu_hours(flops: float, gpu: Gpu, mfu: float) -> float:
    """Return the GPU-hours of ``flops`` at a model FLOPs utilization of ``mfu`` (0..1)."""
    return flops / (mfu * gpu.peak_tflops * TERA) / 3600


@dataclass(frozen=True)
class Memory:
    """What one GPU holds while training.

    Attributes:
        states_gib: its share of weights, gradients and optimizer state, and the whole frozen backbone, GiB.
        free_gib: what remains of the usable memory; negative if the states do not fit.
        plain_tokens: tokens of one forward and backward pass that fit, nothing recomputed.
        elementwise_tokens: the same with all recomputed but matrix products and attention.
        checkpointed_tokens: the same with every layer recomputed from its input.
        fewest_gpus: the smallest number of such GPUs that would hold the states; None if no number would.
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
    """Return what one of ``num_gpus`` GPUs holds: states are sharded over all of them, the backbone is not.

    Args:
        llm: the language model.
        connector: number of parameters of the connector.
        backbone: number of parameters of the frozen backbone.
        gpu: the GPU.
        num_gpus: how many share the states.
        adapters_only: whether the LLM's own weights are frozen; the adapters themselves are left out, as small.
    """
    of_llm = FROZEN_BYTES if adapters_only else STATE_BYTES
    trained = (of_llm * llm.parameters + STATE_BYTES * connector) / GIB
    frozen = FROZEN_BYTES * backbone / GIB
    usable = USABLE_MEMORY * gpu.memory_gib
    states = trained / num_gpus + frozen
    free = usable - states
    plain, elementwise = (size * llm.width * llm.layers for size in (ACTIVATION_BYTES, ELEMENTWISE_BYTES))
    checkpointed = CHECKPOINT_BYTES * llm.width * llm.layers + ACTIVATION_BYTES * llm.width
    room = max(free, 0.0) * GIB
    fewest = None if frozen >= usable else max(1, -int(-trained // (usable - frozen)))
    return Memory(states, free, int(room // plain), int(room // elementwise), int(room // checkpointed), fewest)
