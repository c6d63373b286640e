"""The VLM: visual tokens through a connector into a decoder LLM, as a transformers model.

`VisionLanguageModel` owns the trained parts, the connector and the LLM. The frozen backbone stays outside the module
tree (see `eyeswap.vlm.frozen`): the config names it, and a saved folder contains its weights only on request. It is not
needed at all when visual tokens come from the token cache.

A sequence is ``[BOS][visual tokens][text]``, attention is causal, positions are sequential, as in the published code.
Everything that feeds the model makes its ids with `eyeswap.vlm.text_ids.insert_visual`, which puts ``<image>`` at the
position of each visual token, and `VisionLanguageModel.embed` puts the visual tokens there.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import CheckpointError, ShapeError
from eyeswap.files import sha256_of
from eyeswap.vlm.configuration import VisionLanguageConfig
from eyeswap.vlm.connector import Connector, connector_layers
from eyeswap.vlm.connector_code import load_code, save_code
from eyeswap.vlm.decoder import cache_argument
from eyeswap.vlm.frozen import BACKBONE_FILE, encode, load_frozen, save_frozen
from eyeswap.vlm.hub import find_model, one_line_errors
from eyeswap.vlm.llm import begins_with_bos, load_llm
from eyeswap.vlm.processor import VisionLanguageProcessor
from eyeswap.vlm.prompt import Prompt
from eyeswap.vlm.prompt_check import end_of_answer, known_ends
from eyeswap.vlm.text_ids import insert_visual

__all__ = ["IGNORED", "VisionLanguageModel", "load_llm"]

IGNORED = -100  # label of positions without loss


# A custom connector is built before its model: transformers would pass it on to configs, which are JSON.
_LOADED: ContextVar[Connector | None] = ContextVar("connector of the model that is being loaded", default=None)


@contextlib.contextmanager
def _being_loaded(connector: Connector | None) -> Iterator[None]:
    token = _LOADED.set(connector)
    try:
        yield
    finally:
        _LOADED.reset(token)


class VisionLanguageModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers carries no types
    """A connector and a decoder LLM, and the name of a frozen backbone.

    Attributes:
        connector: ``[I, N, vision_width] -> [I, M, llm_width]``.
        llm: any causal LM of transformers that takes ``inputs_embeds``.
    """

    config_class = VisionLanguageConfig
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("cache", "past_key_values")

    connector: Connector
    llm: Any  # transformers' model classes carry no types

    def __init__(self, config: VisionLanguageConfig, connector: Connector | None = None) -> None:
        super().__init__(config)
        self._backbone: LoadedBackbone | None = None
        self._trusts_code = False  # of an encoder of one's own
        self._processor: VisionLanguageProcessor | None = None
        self.connector = (
            connector
            or _LOADED.get()
            or connector_layers(
                config.connector, config.vision_width, config.text_config.hidden_size, config.visual_grid
            )
        )
        self.llm = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @classmethod
    def from_parts(
        cls,
        llm: Any,
        tokenizer: Any,
        connector: Connector,
        prompt: Prompt,
        backbone: LoadedBackbone | None = None,
    ) -> Self:
        """Assemble a VLM.

        Args:
            llm: a causal LM; not copied.
            tokenizer: its tokenizer; ``llm``, ``tokenizer`` and ``prompt`` are what `load_llm` returns.
            connector: see `build_connector`; not copied.
            prompt: the chat frame of the LLM.
            backbone: the frozen backbone; without one, the caller passes visual tokens.
        """
        processor = VisionLanguageProcessor.of(tokenizer, prompt, backbone, connector)
        config = VisionLanguageConfig(
            text_config=llm.config,
            vision_width=connector.vision_width,
            connector=connector.kind,
            connector_sha256=None if connector.file is None else sha256_of(connector.file),
            visual_grid=connector.grid,
            image_token_id=processor.image_token_id,
            bos_first=begins_with_bos(tokenizer, prompt),
            dtype=llm.dtype,
            **({} if backbone is None else VisionLanguageConfig.describe_backbone(backbone)),
        )
        with torch.device("meta"):
            model = cls(config, connector)
        model.llm = llm
        model._backbone, model._processor = backbone, processor
        ends = known_ends(tokenizer, llm.generation_config)
        ends = list(dict.fromkeys([*ends, end_of_answer(tokenizer, prompt, ends)]))
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends if len(ends) > 1 else ends[0],
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=[config.image_token_id],
        )
        return model.train(llm.training)

    @property
    def processor(self) -> VisionLanguageProcessor:
        """Image geometry, tokenizer and chat frame, read from the model's folder at first use."""
        if self._processor is None:
            self._processor = VisionLanguageProcessor.from_pretrained(self.name_or_path)
        return self._processor

    @property
    def tokenizer(self) -> Any:
        """The LLM's tokenizer."""
        return self.processor.tokenizer

    @property
    def prompt(self) -> Prompt:
        """The chat frame of the LLM."""
        return self.processor.prompt

    @property
    def backbone(self) -> LoadedBackbone:
        """The frozen backbone with the geometry of the model's images, loaded at first use.

        Raises:
            SpecError: if the model was made without one, or it is code that is not trusted.
            CheckpointError: if its weights cannot be loaded, or are not those that the model was trained with.
        """
        if self._backbone is None:
            loaded = load_frozen(self.config, self.name_or_path, trusts_code=self._trusts_code)
            self._backbone = dataclasses.replace(loaded, geometry=self.processor.image_geometry)
            self._backbone.network.train(self.training)  # a frozen network stays in eval mode
        return self._backbone

    @property
    def tuned_blocks(self) -> list[nn.Module]:
        """The blocks of the backbone that learn; empty if it is frozen."""
        blocks = [] if self._backbone is None else self._backbone.network.blocks_in_order()
        return [block for block in blocks if any(parameter.requires_grad for parameter in block.parameters())]

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the backbone follows as published, and stays in eval mode if controlled."""
        super().train(mode)
        if getattr(self, "_backbone", None) is not None:
            self.backbone.network.train(mode)
        return self

    def get_input_embeddings(self) -> Any:
        """Return the LLM's token embedding."""
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the LLM's token embedding."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """Return the LLM's output layer, which makes logits."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, value: Any) -> None:
        """Replace the LLM's output layer."""
        self.llm.set_output_embeddings(value)

    @property
    def _is_stateful(self) -> bool:
        """Whether the LLM's memory of earlier positions cannot be cut back, as in a Mamba; `generate` reads it."""
        return bool(getattr(self.llm, "_is_stateful", False))

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the connector to `build_connector` and the LLM to its own class."""

    def encode(self, pixel_values: Tensor, image_sizes: Tensor | None = None) -> Tensor:
        """Return the visual tokens ``[I, N, vision_width]`` of images ``[I, 3, H, W]``, see `frozen.encode`."""
        return encode(self.backbone, pixel_values, image_sizes)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        visual_tokens: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Run the LLM over text and images.

        Args:
            input_ids: ``[B, T]`` with ``config.image_token_id`` where visual tokens go.
            attention_mask: ``[B, T]``, 0 for padding.
            position_ids: ``[B, T]``; sequential by default.
            inputs_embeds: ``[B, T, llm_width]`` instead of ids and images.
            labels: ``[B, T]``, `IGNORED` at positions without loss; the loss is the mean over all others.
            pixel_values: ``[I, 3, H, W]``, the images in the order of their rows.
            image_sizes: ``[I, 2]`` height and width of each canvas, if canvases vary.
            visual_tokens: ``[I, N, vision_width]`` instead of pixels.
            cache: keys and values, or states, of earlier positions.
            past_key_values: the same under the name that transformers used before 5.24.
            **kwargs: passed to the LLM.

        Returns:
            The LLM's output: ``logits`` ``[B, T, V]``, the cache, and with labels ``loss``.

        Raises:
            ShapeError: if the ids have room for another number of visual tokens than there are.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ShapeError("give input_ids or inputs_embeds")
            if visual_tokens is None and pixel_values is not None:
                visual_tokens = self.encode(pixel_values, image_sizes)
            inputs_embeds = self.embed(input_ids, visual_tokens)
        cache = past_key_values if cache is None else cache
        if cache is not None:
            kwargs[cache_argument(self.llm)] = cache
        return self.llm(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **kwargs,
        )

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Prepare a step over ``input_ids`` ``[B, T]``; images go with their ids, and not again later."""
        inputs: dict[str, Any] = self.llm.prepare_inputs_for_generation(input_ids, **kwargs)
        ids = inputs.get("input_ids")
        if ids is None or not bool((ids == self.config.image_token_id).any()):
            for name in ("pixel_values", "image_sizes", "visual_tokens"):
                inputs.pop(name, None)
        return inputs

    def insert_visual(self, ids: Sequence[int], num_visual: int) -> list[int]:
        """Return the ids of a text with ``config.image_token_id`` where the visual tokens of its image go.

        Args:
            ids: of the text.
            num_visual: visual tokens of the backbone; 0 without an image. There is room for those that the LLM sees.
        """
        seen = self.connector.num_tokens if num_visual else None
        return insert_visual(
            ids, num_visual if seen is None else seen, self.config.image_token_id, self.config.bos_first
        )

    def embed(self, input_ids: Tensor, visual_tokens: Tensor | None = None) -> Tensor:
        """Embed token ids, with visual tokens through the connector where `insert_visual` made room for them.

        Args:
            input_ids: ``[B, T]`` with ``config.image_token_id`` where visual tokens go.
            visual_tokens: ``[..., vision_width]``, in the order of the ids; None for text alone.

        Returns:
            ``[B, T, llm_width]``.

        Raises:
            ShapeError: if the ids have room for another number of visual tokens than there are.
        """
        room = input_ids == self.config.image_token_id
        # The image id may lie beyond the vocabulary, so another one is looked up in its place.
        embeddings: Tensor = self.get_input_embeddings()(input_ids.masked_fill(room, 0))
        visual = None
        if visual_tokens is not None and visual_tokens.numel():
            connector_dtype = next(self.connector.parameters()).dtype
            visual = self.connector(visual_tokens.to(connector_dtype)).to(embeddings.dtype)
        num_visual = 0 if visual is None else visual[..., 0].numel()
        if int(room.sum()) != num_visual:
            raise ShapeError(f"input_ids have room for {int(room.sum())} visual tokens, {num_visual} were given")
        return embeddings if visual is None else embeddings.masked_scatter(room[..., None], visual)

    def hidden_states(self, input_ids: Tensor, visual_tokens: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the last hidden state of the LLM at every position, before the output layer.

        Args:
            input_ids: ``[B, T]`` with ``config.image_token_id`` where visual tokens go.
            visual_tokens: ``[..., vision_width]``, in the order of the ids.
            **kwargs: passed to the LLM, such as ``position_ids`` ``[B, T]``.

        Returns:
            ``[B, T, llm_width]``.

        Raises:
            ShapeError: if the ids have room for another number of visual tokens than there are.
        """
        embeddings = self.embed(input_ids, visual_tokens)
        states: Tensor = self.llm.base_model(inputs_embeds=embeddings, use_cache=False, **kwargs).last_hidden_state
        return states

    def save_pretrained(self, save_directory: str | Path, include_backbone: bool = False, **kwargs: Any) -> None:
        """Write config and weights in the Hugging Face layout; the processor is saved by its own ``save_pretrained``.

        Args:
            save_directory: the folder.
            include_backbone: whether to write the frozen backbone's weights too, so that the folder is self-contained.
            **kwargs: see transformers.
        """
        if include_backbone:
            save_frozen(self.backbone, Path(save_directory))
        if self.connector.file is not None:
            save_code(self.connector, Path(save_directory))
        self.config.backbone_file = BACKBONE_FILE if include_backbone else None
        super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Load a folder, or a repository of the Hub, strictly; ``kwargs`` as in transformers.

        Raises:
            CheckpointError: if it is missing or damaged, or its weights do not match its config.
            SpecError: if its connector is custom code and ``trust_remote_code`` is not set. A backbone of custom code
                is refused when it is first used.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        name = find_model(name)
        kwargs = {"use_safetensors": True, **kwargs}
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported below, in one line
        with one_line_errors(name):
            kind = VisionLanguageConfig.get_config_dict(name)[0].get("model_type")
            if kind != VisionLanguageConfig.model_type:
                raise ValueError(f"its config.json describes a {kind} model, not an eyeswap VLM")
            config = VisionLanguageConfig.from_pretrained(name)
        trusts = kwargs.pop("trust_remote_code", False)
        ready = load_code(config, name, trusts)
        with one_line_errors(name), _being_loaded(ready):
            model, info = super().from_pretrained(name, *args, **kwargs)
        for kind in ("missing", "unexpected", "mismatched"):
            keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{kind}_keys"])
            if keys:
                more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
                raise CheckpointError(f"{name}: {kind} weights {keys[0]}{more}")
        model._trusts_code = trusts is True
        # Folders of earlier versions do not say so: the image token stands for an image and is never generated.
        model.generation_config.suppress_tokens = [model.config.image_token_id]
        return (model, info) if wants_info else model

    def save(self, folder: Path) -> None:
        """Write model and processor to a folder."""
        self.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | Path, **kwargs: Any) -> Self:
        """Load model and processor from a folder or the Hub, in eval mode; ``kwargs`` as in `from_pretrained`.

        Raises:
            CheckpointError: if a file is missing or does not fit the others.
        """
        model: Self = cls.from_pretrained(folder, **kwargs)
        with one_line_errors(folder):
            model._processor = VisionLanguageProcessor.from_pretrained(model.name_or_path)
        return model
