"""The VLM: visual tokens through a connector into a decoder LLM, as a model of transformers.

`VisionLanguageModel` owns what is trained, the connector and the LLM. The frozen backbone stays outside of the module
tree (see `frozen`): the config names it, and a saved folder does not repeat its weights unless asked. Ready-made visual
tokens (of the token cache) do without it.

A sequence is ``[BOS][visual tokens][text]``, attention is causal, positions are sequential (facts of the published
code). ``forward`` and ``generate`` take the ids that the processor makes, where ``<image>`` stands for each visual
token; `embed` and `loss`, made for training, take plain text ids and insert the tokens themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import CheckpointError, ShapeError
from eyeswap.vlm.configuration import VisionLanguageConfig
from eyeswap.vlm.connector import connector_kind, connector_layers
from eyeswap.vlm.frozen import BACKBONE_FILE, encode, load_frozen, save_frozen
from eyeswap.vlm.hub import find_model, one_line_errors
from eyeswap.vlm.llm import begins_with_bos, load_llm
from eyeswap.vlm.processor import VisionLanguageProcessor
from eyeswap.vlm.prompt import Prompt
from eyeswap.vlm.prompt_check import end_of_answer, known_ends

__all__ = ["IGNORED", "VisionLanguageModel", "load_llm"]

IGNORED = -100  # label of positions without loss


class VisionLanguageModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers carries no types
    """A connector and a decoder LLM, with a frozen backbone by name.

    Attributes:
        connector: ``[B, N, vision_width] -> [B, N, llm_width]``.
        llm: any transformers causal LM that takes ``inputs_embeds``.
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

    connector: nn.Sequential
    llm: Any  # transformers' model classes carry no types

    def __init__(self, config: VisionLanguageConfig) -> None:
        super().__init__(config)
        self._backbone: LoadedBackbone | None = None
        self._processor: VisionLanguageProcessor | None = None
        self.connector = connector_layers(config.connector, config.vision_width, config.text_config.hidden_size)
        self.llm = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @classmethod
    def from_parts(
        cls,
        llm: Any,
        tokenizer: Any,
        connector: nn.Sequential,
        prompt: Prompt,
        backbone: LoadedBackbone | None = None,
    ) -> Self:
        """Put a VLM together.

        Args:
            llm: a causal LM; not copied.
            tokenizer: its tokenizer; with ``llm`` and ``prompt`` as `load_llm` gives them.
            connector: see `build_connector`; not copied.
            prompt: the chat frame of the LLM.
            backbone: the frozen backbone; without one, visual tokens come from outside.
        """
        processor = VisionLanguageProcessor.of(tokenizer, prompt, backbone)
        first: Any = connector[0]
        config = VisionLanguageConfig(
            text_config=llm.config,
            vision_width=first.in_features,
            connector=connector_kind(connector),
            image_token_id=processor.image_token_id,
            bos_first=begins_with_bos(tokenizer, prompt),
            dtype=llm.dtype,
            **({} if backbone is None else VisionLanguageConfig.describe_backbone(backbone)),
        )
        with torch.device("meta"):
            model = cls(config)
        model.connector, model.llm = connector, llm
        model._backbone, model._processor = backbone, processor
        ends = known_ends(tokenizer, llm.generation_config)
        ends = list(dict.fromkeys([*ends, end_of_answer(tokenizer, prompt, ends)]))
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends if len(ends) > 1 else ends[0],
            pad_token_id=tokenizer.pad_token_id,
        )
        return model.train(llm.training)

    @property
    def processor(self) -> VisionLanguageProcessor:
        """Image geometry, tokenizer and chat frame, from where the model was loaded."""
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
        """The frozen backbone, loaded the first time it is asked for.

        Raises:
            SpecError: if the model was made without one.
            CheckpointError: if its weights cannot be had, or are not those that the model was trained with.
        """
        if self._backbone is None:
            self._backbone = load_frozen(self.config, self.name_or_path)
            self._backbone.network.train(self.training)  # a frozen network stays in eval mode
        return self._backbone

    def train(self, mode: bool = True) -> Self:
        """Set training mode. A backbone in the controlled wiring stays in eval mode; as published, it follows."""
        super().train(mode)
        if getattr(self, "_backbone", None) is not None:
            self.backbone.network.train(mode)
        return self

    def get_input_embeddings(self) -> Any:
        """Return the embedding of the LLM."""
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the embedding of the LLM."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """Return the last matrix of the LLM."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, value: Any) -> None:
        """Replace the last matrix of the LLM."""
        self.llm.set_output_embeddings(value)

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
        **kwargs: Any,
    ) -> Any:
        """Run the LLM over text and images.

        Args:
            input_ids: ``[B, T]`` with ``config.image_token_id`` where visual tokens go.
            attention_mask: ``[B, T]``, 0 for padding.
            position_ids: ``[B, T]``; sequential by default.
            inputs_embeds: ``[B, T, llm_width]`` instead of ids and images.
            labels: ``[B, T]``, `IGNORED` without loss; the loss is the mean over the others.
            pixel_values: ``[I, 3, H, W]``, the images in the order of their rows.
            image_sizes: ``[I, 2]`` height and width of each canvas, where canvases vary.
            visual_tokens: ``[I, N, vision_width]`` instead of pixels.
            **kwargs: for the LLM, such as the cache of earlier positions.

        Returns:
            The LLM's output: ``logits`` ``[B, T, V]``, the cache, and with labels ``loss``.

        Raises:
            ShapeError: if the ids have room for another number of visual tokens than there are.
        """
        if inputs_embeds is None:
            if visual_tokens is None and pixel_values is not None:
                visual_tokens = self.encode(pixel_values, image_sizes)
            inputs_embeds = self._fill(input_ids, visual_tokens)
        return self.llm(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **kwargs,
        )

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Prepare a step over ``input_ids`` ``[B, T]``; images go in where their ids do, not again at later steps."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        ids = inputs.get("input_ids")
        if ids is None or not bool((ids == self.config.image_token_id).any()):
            for name in ("pixel_values", "image_sizes", "visual_tokens"):
                inputs.pop(name, None)
        return inputs

    def _fill(self, input_ids: Tensor | None, visual_tokens: Tensor | None) -> Tensor:
        """Embed ids ``[B, T]``; visual tokens ``[..., vision_width]`` go where the image id stands, in order."""
        if input_ids is None:
            raise ShapeError("give input_ids or inputs_embeds")
        room = input_ids == self.config.image_token_id
        embeddings: Tensor = self.get_input_embeddings()(input_ids.masked_fill(room, 0))  # [B, T, D]
        given = 0 if visual_tokens is None else visual_tokens[..., 0].numel()
        if int(room.sum()) != given:
            raise ShapeError(f"input_ids have room for {int(room.sum())} visual tokens, {given} were given")
        if visual_tokens is None:
            return embeddings
        visual = self.connector(visual_tokens.to(self._connector_dtype)).to(embeddings.dtype)
        return embeddings.masked_scatter(room[..., None], visual)

    @property
    def _connector_dtype(self) -> torch.dtype:
        return next(self.connector.parameters()).dtype

    def embed(self, visual_tokens: Tensor | None, input_ids: Tensor, image_rows: Tensor | None = None) -> Tensor:
        """Assemble the input embeddings of a batch of plain text ids.

        As published, a text-only row of a mixed batch is as long as the others: zeros follow its text, where causal
        attention never looks. A batch of text alone is plain text.

        Args:
            visual_tokens: ``[I, N, vision_width]``; None for a batch of text alone.
            input_ids: ``[B, T]``, padded on the right.
            image_rows: ``[I]`` rows that the images belong to; None if every row has one.

        Returns:
            ``[B, T + N, llm_width]``: BOS (if the LLM has one), visual tokens, the rest of the text.
        """
        text: Tensor = self.get_input_embeddings()(input_ids)  # [B, T, D]
        if visual_tokens is None or len(visual_tokens) == 0:
            return text
        lead = int(self.config.bos_first)
        visual = self.connector(visual_tokens.to(self._connector_dtype)).to(text.dtype)  # [I, N, D]
        if image_rows is None:
            return torch.cat([text[:, :lead], visual, text[:, lead:]], dim=1)
        seen = text[image_rows]
        mixed = F.pad(text, (0, 0, 0, visual.shape[1]))  # [B, T+N, D]
        return mixed.index_copy(0, image_rows, torch.cat([seen[:, :lead], visual, seen[:, lead:]], dim=1))

    def hidden_states(self, input_ids: Tensor, visual_tokens: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return what the last layer of the LLM says at every position, before any logits.

        Args:
            input_ids: ``[B, T]`` with ``config.image_token_id`` where visual tokens go.
            visual_tokens: ``[..., vision_width]``, in the order of the ids.
            **kwargs: for the LLM, such as ``position_ids`` ``[B, T]``.

        Returns:
            ``[B, T, llm_width]``.

        Raises:
            ShapeError: if the ids have room for another number of visual tokens than there are.
        """
        embedded = self._fill(input_ids, visual_tokens)
        states: Tensor = self.llm.base_model(inputs_embeds=embedded, use_cache=False, **kwargs).last_hidden_state
        return states

    def loss(
        self, visual_tokens: Tensor | None, input_ids: Tensor, labels: Tensor, image_rows: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Return the summed cross-entropy over the answer tokens and their number.

        Args:
            visual_tokens: ``[I, N, vision_width]``; None for a batch of text alone.
            input_ids: ``[B, T]``, padded on the right; a causal model never looks at the padding.
            labels: ``[B, T]``, `IGNORED` outside of answers.
            image_rows: ``[I]`` rows that the images belong to; None if every row has one.
        """
        embedded = self.embed(visual_tokens, input_ids, image_rows)
        hidden = self.llm.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state  # [B, T+N, D]
        num_visual = hidden.shape[1] - input_ids.shape[1]
        text = hidden[:, num_visual:]  # [B, T, D]: position t has seen the text up to t
        if num_visual and image_rows is not None:
            text = hidden[:, : input_ids.shape[1]].index_copy(0, image_rows, text[image_rows])
        wanted = labels[:, 1:] != IGNORED  # [B, T-1]
        logits = self.get_output_embeddings()(text[:, :-1][wanted])  # [targets, V]
        targets = labels[:, 1:][wanted]
        return F.cross_entropy(logits.float(), targets, reduction="sum"), int(targets.numel())

    def save_pretrained(self, save_directory: str | Path, include_backbone: bool = False, **kwargs: Any) -> None:
        """Write config and weights in the Hugging Face layout; the processor has a ``save_pretrained`` of its own.

        Args:
            save_directory: the folder.
            include_backbone: whether to write the frozen backbone's weights beside, which its name else stands for.
            **kwargs: see transformers.
        """
        if include_backbone:
            save_frozen(self.backbone, Path(save_directory))
        self.config.backbone_file = BACKBONE_FILE if include_backbone else None
        super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Read a folder, or a repository of the Hub, strictly; ``kwargs`` as in transformers.

        Raises:
            CheckpointError: if it is missing, damaged, or has other weights than its config says.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        name = find_model(name)
        kwargs = {"use_safetensors": True, **kwargs}
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # told below, in one line
        with one_line_errors(name):
            kind = VisionLanguageConfig.get_config_dict(name)[0].get("model_type")
            if kind != VisionLanguageConfig.model_type:
                raise ValueError(f"its config.json is of a {kind} model, not of an eyeswap VLM")
            model, info = super().from_pretrained(name, *args, **kwargs)
        for kind in ("missing", "unexpected", "mismatched"):
            keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{kind}_keys"])
            if keys:
                more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
                raise CheckpointError(f"{name}: {kind} weights {keys[0]}{more}")
        return (model, info) if wants_info else model

    def save(self, folder: Path) -> None:
        """Write model and processor to a folder."""
        self.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | Path, **kwargs: Any) -> Self:
        """Read model and processor from a folder or the Hub, in eval mode; ``kwargs`` as in `from_pretrained`.

        Raises:
            CheckpointError: if a file is missing or does not fit.
        """
        model: Self = cls.from_pretrained(folder, **kwargs)
        with one_line_errors(folder):
            model._processor = VisionLanguageProcessor.from_pretrained(model.name_or_path)
        return model
