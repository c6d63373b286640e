"""A language model whose weights are read after it has been sharded, so that no process ever holds all of them.

Its parameters are first on torch's meta device, which has shapes but no data. Once they are divided among processes,
each reads its own rows of every tensor from the checkpoint's files. The checks of `eyeswap.vlm.llm_check` and the rows
that the embedding grows by need weights before that: they are made with the first layers alone.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from eyeswap.files import read_torch_weights
from eyeswap.recipe import PromptKind
from eyeswap.vlm.hub import find_model, one_line_errors
from eyeswap.vlm.llm import load_config, load_tokenizer, make_room
from eyeswap.vlm.llm_check import check_layers
from eyeswap.vlm.prompt import Prompt

_FORMATS = ((SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME))


@dataclass(frozen=True)
class DeferredWeights:
    """The weights of an LLM, in files.

    Attributes:
        files: the file of each tensor.
        grown: names of the tensors that have more rows than in their file; in the first process with their values.
    """

    files: Mapping[str, Path]
    grown: Mapping[str, Tensor | None] = field(default_factory=dict)

    def name_of(self, names: Sequence[str]) -> str | None:
        """Return which of the names of a tied parameter the files have; None if they have none of them."""
        originals = (name.replace(".base_layer.", ".") for name in names)  # of a layer with an adapter
        return next((name for name in originals if name in self.files), None)

    def shape_of(self, name: str) -> torch.Size:
        """Return the shape of a tensor in its file."""
        if self.files[name].suffix == ".safetensors":
            with safe_open(self.files[name], framework="pt") as tensors:
                return torch.Size(tensors.get_slice(name).get_shape())
        return self.read(name).shape

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the rows ``start`` to ``stop`` of a tensor ``[rows, ...]``, in the type of the file."""
        file = self.files[name]
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                rows: Tensor = tensors.get_slice(name)[start:stop]
                return rows
        stored: Tensor = read_torch_weights(file, mmap=True)[name]
        return stored[start:stop]

    def stored(self, llm: nn.Module) -> list[tuple[str, Tensor]]:
        """Return the parameters of an LLM that are in the files, in their shapes, by their names there."""
        pairs = ((self.name_of(names), parameter) for names, parameter in _tied(llm))
        return [(name, parameter) for name, parameter in pairs if name is not None]

    def fill(self, llm: nn.Module, part_of: Callable[[str, Tensor], Tensor]) -> None:
        """Give an LLM its weights, and its buffers the values that the files have for them.

        Args:
            llm: with parameters on the meta device, sharded or not; those that are not in the files, of adapters, stay.
            part_of: returns the value of a parameter, in its shape, from its name in the files and the parameter.
        """
        state: dict[str, Tensor] = {}
        for names, parameter in _tied(llm):
            name = self.name_of(names)
            if name is not None:
                value = nn.Parameter(part_of(name, parameter), requires_grad=parameter.requires_grad)
                state |= dict.fromkeys(names, value)  # the same object under each name, so that they stay tied
        llm.load_state_dict(state, strict=False, assign=True)
        for name, buffer in llm.named_buffers():
            if name in self.files:
                buffer.copy_(self.read(name))


def defer_llm(
    name: str | Path,
    prompt: PromptKind = "auto",
    today: Callable[[], date] = date.today,
    is_first: bool = True,
) -> tuple[Any, PreTrainedTokenizerBase, Prompt, DeferredWeights] | None:
    """Build a causal LM without its weights, as `eyeswap.vlm.llm.load_llm` would load it in float32.

    Args:
        name: a folder or ``organisation/model``.
        prompt: which chat frame.
        today: returns the date that a chat template prints.
        is_first: whether this process is the first of its group, which checks the layers and grows the embedding.

    Returns:
        The LLM, its parameters on the meta device and its buffers on the CPU; tokenizer; chat frame; and the weights.
        None if the names and shapes in the checkpoint are not those of the model, as for experts stored one by one:
        only transformers can read such a checkpoint, as a whole.

    Raises:
        CheckpointError, SpecError: as in `eyeswap.vlm.llm.load_llm`.
    """
    source = find_model(name)
    config = load_config(source)
    tokenizer, frame = load_tokenizer(source, prompt, today)
    with one_line_errors(f"llm {name}"):
        weights = DeferredWeights(_tensor_files(source))
        llm = build_without_weights(config)
        if not _fits(llm, weights):
            return None
        with contextlib.suppress(OSError):  # as in transformers: not every model has one
            llm.generation_config = GenerationConfig.from_pretrained(source)
        llm.config.name_or_path = Path(name).name if Path(name).is_dir() else name
        make_room(llm, tokenizer)
        grown = [name for name, parameter in weights.stored(llm) if parameter.shape != weights.shape_of(name)]
    values: dict[str, Tensor | None] = dict.fromkeys(grown)
    if is_first:
        with one_line_errors(f"llm {name}"):
            shallow = _shallow(config, weights)
            make_room(shallow, tokenizer)
        check_layers(str(name), shallow.eval())
        values = {stored: parameter.detach() for stored, parameter in weights.stored(shallow) if stored in values}
    return llm.eval(), tokenizer, frame, dataclasses.replace(weights, grown=values)


def _tensor_files(source: str) -> dict[str, Path]:
    """Return the file of each tensor of a checkpoint, which is downloaded if it is on the Hub."""
    for single, index in _FORMATS:
        file = cached_file(source, single, _raise_exceptions_for_missing_entries=False)
        paths: Sequence[str] = [] if file is None else [file]
        index_file = None if paths else cached_file(source, index, _raise_exceptions_for_missing_entries=False)
        if index_file is not None:
            paths, _ = get_checkpoint_shard_files(source, index_file)
        if paths:
            return {name: Path(path) for path in paths for name in _names(Path(path))}
    raise OSError(f"no file named {SAFE_WEIGHTS_NAME} or {WEIGHTS_NAME}")


def _names(file: Path) -> list[str]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    return list(read_torch_weights(file, mmap=True))


def build_without_weights(config: Any) -> Any:
    """Build a causal LM in float32, its parameters on the meta device, and buffers with their values."""
    with _parameters_on_meta():
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move every parameter that a module registers to the meta device, before it is initialized."""

    def without_data(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(cast(Any, without_data))  # torch declares no result
    try:
        yield
    finally:
        hook.remove()


def _fits(llm: nn.Module, weights: DeferredWeights) -> bool:
    """Return whether every parameter of a model is in the files, under the same name and with the same shape."""
    is_there = [weights.name_of(names) is not None for names, _ in _tied(llm)]
    return all(is_there) and all(weights.shape_of(name) == parameter.shape for name, parameter in weights.stored(llm))


def _tied(llm: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Return each parameter of an LLM with its names, of which a tied one has several."""
    names: dict[int, list[str]] = {}
    parameters = dict(llm.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    return [(tied, parameters[tied[0]]) for tied in names.values()]


def _shallow(config: Any, weights: DeferredWeights) -> Any:
    """Load an LLM cut off after the first layers that show every kind of layer it has."""
    llm = build_without_weights(config)
    layers = next(part for part in llm.base_model.modules() if isinstance(part, nn.ModuleList))
    declared = getattr(config, "layer_types", None) or [None] * len(layers)
    kinds = [(str(layer), kind) for layer, kind in zip(layers, declared, strict=True)]
    del layers[max(2, *(kinds.index(kind) + 1 for kind in set(kinds))) :]
    llm.config.num_hidden_layers = len(layers)
    weights.fill(llm, lambda name, _parameter: weights.read(name).float())
    return llm
