"""The processor of a VLM: images to pixels on the backbone's canvas, text to token ids with room for visual tokens.

``processor(images=..., text=...)`` takes complete prompts, as `apply_chat_template` or ``processor.prompt.question``
render them, each with one image or none. ``<image>`` is removed from a text: wherever it stood, visual tokens follow
the beginning-of-sequence token. Rows are padded on the left, ready for ``generate``.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from eyeswap.backbones import catalog
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import DataError, SpecError
from eyeswap.geometry import ImageGeometry
from eyeswap.images import open_picture
from eyeswap.vlm.connector import Connector
from eyeswap.vlm.image_processor import CanvasImageProcessor
from eyeswap.vlm.prompt import (
    IMAGE_PLACEHOLDER,
    VICUNA_SYSTEM,
    PlainPrompt,
    Prompt,
    TemplatePrompt,
    VicunaPrompt,
    clean_message,
)
from eyeswap.vlm.text_ids import insert_visual, text_ids

_PLACEHOLDER = re.compile(rf"\n?{IMAGE_PLACEHOLDER}\n?")


class VisionLanguageProcessor(ProcessorMixin):  # type: ignore[misc]  # transformers carries no types
    """Image geometry, tokenizer and chat frame of a VLM.

    Args:
        tokenizer: the LLM's tokenizer, with ``<image>``; set to pad on the left.
        geometry: fields of the `ImageGeometry`; None for a VLM without backbone, which takes text and visual tokens.
        num_visual_tokens: visual tokens of one canvas that the LLM sees; None if the canvas varies with the image.
        frame: ``vicuna``, ``plain``, or ``template`` for the tokenizer's own chat template.
        system: text of the system message.
        end_of_answer: text that closes an answer, unless the frame is a template.
        backbone: catalog name, wiring and tap of the backbone.
    """

    def __init__(
        self,
        tokenizer: Any,
        geometry: dict[str, Any] | None = None,
        num_visual_tokens: int | None = None,
        frame: str = "",
        system: str = VICUNA_SYSTEM,
        end_of_answer: str = "</s>",
        backbone: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if frame not in ("vicuna", "plain", "template"):
            raise ValueError("processor_config.json is missing, or names no chat frame")
        super().__init__(tokenizer, chat_template=None)
        tokenizer.padding_side = "left"  # saved tokenizers do not keep it, and pipelines pad by it
        self.geometry, self.num_visual_tokens, self.backbone = geometry, num_visual_tokens, backbone
        self.frame, self.system, self.end_of_answer = frame, system, end_of_answer
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        prompt: Prompt,
        backbone: LoadedBackbone | None = None,
        connector: Connector | None = None,
    ) -> VisionLanguageProcessor:
        """Make the processor of a chat frame, a backbone and a connector, which may change the number of tokens.

        Raises:
            SpecError: if the connector was built for another grid of tokens than the backbone gives.
        """
        fields: dict[str, Any] = {}
        if backbone is not None:
            fields["geometry"] = backbone.geometry.model_dump(mode="json")
            fields["backbone"] = {"name": backbone.name, "wiring": backbone.wiring, "tap": backbone.tap}
            if backbone.geometry.strategy != "keep-ratio":
                grid = backbone.token_grid
                fields["num_visual_tokens"] = math.prod(grid) if connector is None else connector.tokens_of(grid)
            elif connector is not None and connector.grid is not None:
                raise SpecError(f"connector {connector.kind}: needs a fixed canvas; choose a letterbox")
        frame = "template"
        if isinstance(prompt, VicunaPrompt | PlainPrompt):
            frame = "vicuna" if isinstance(prompt, VicunaPrompt) else "plain"
            fields["end_of_answer"] = prompt.end_of_answer
        return cls(tokenizer, frame=frame, system=prompt.system, **fields)

    @property
    def prompt(self) -> Prompt:
        """The chat frame."""
        if self.frame == "template":
            return TemplatePrompt(self.tokenizer, self.system)
        kind = PlainPrompt if self.frame == "plain" else VicunaPrompt
        return kind(self.system, self.end_of_answer)

    @property
    def image_geometry(self) -> ImageGeometry:
        """How an image becomes pixels.

        Raises:
            SpecError: if the VLM was made without a backbone.
        """
        return self.image_processor.image_geometry

    @property
    def image_processor(self) -> CanvasImageProcessor:
        """Where images become pixels; transformers' pipelines ask for it to build batches."""
        return CanvasImageProcessor(self.geometry)

    def __call__(self, images: Any = None, text: Any = None, return_tensors: str = "pt", **kwargs: Any) -> BatchFeature:
        """Prepare a batch for `VisionLanguageModel`.

        Args:
            images: one image, one for each text, or for each text a list of at most one; each a PIL image, a path, an
                array or None. Fewer images than texts go to the texts that contain ``<image>``.
            text: one prompt or several.
            return_tensors: ``pt``.
            **kwargs: ``add_special_tokens`` goes to the tokenizer; everything else is ignored.

        Returns:
            ``input_ids`` and ``attention_mask`` ``[B, T]``, padded on the left; with images ``pixel_values``
            ``[I, 3, H, W]``, and ``image_sizes`` ``[I, 2]`` (height, width) if canvases vary.

        Raises:
            DataError: if an image cannot be read, or there are more or fewer images than texts have room for.
        """
        texts = [text] if isinstance(text, str) else list(text)
        image_of_text = _match_images(images, texts)
        data, counts = self._pixels([image for image in image_of_text if image is not None])
        add_bos = bool(kwargs.get("add_special_tokens", True))
        remaining = iter(counts)
        rows = [
            self._ids(prompt, 0 if image is None else next(remaining), add_bos)
            for prompt, image in zip(texts, image_of_text, strict=True)
        ]
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return BatchFeature({"input_ids": ids, "attention_mask": mask, **data})

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        tokenize: bool = False,
        return_dict: bool = False,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Render conversations in the chat frame of this VLM.

        A conversation is a list of ``{"role": "user", "content": ...}`` whose content is a text or a list of parts
        ``{"type": "image", "image": image}`` and ``{"type": "text", "text": ...}``. A final user message is followed by
        the header of the answer.

        Args:
            conversation: one conversation or several.
            chat_template: must be None; the frame belongs to the model.
            tokenize: whether to return token ids instead of text.
            return_dict: whether to return everything that the model takes, pixels included.
            continue_final_message: whether to leave a final answer open, so that the model continues it.
            **kwargs: ignored.

        Raises:
            SpecError: if roles do not alternate starting with ``user``, another template is given, or there is no final
                answer to continue.
        """
        if chat_template is not None:
            raise SpecError("the chat frame belongs to the model; render the prompt yourself and pass it as text")
        is_batch = bool(conversation) and not isinstance(conversation[0], dict)
        chats = [
            self._read_chat(chat, continue_final_message) for chat in (conversation if is_batch else [conversation])
        ]
        texts = [text for text, _ in chats]
        if not tokenize:
            return texts if is_batch else texts[0]
        inputs = self(images=[images for _, images in chats], text=texts)
        return inputs if return_dict else inputs["input_ids"]

    def _read_chat(self, chat: Sequence[Any], is_open: bool) -> tuple[str, list[Any]]:
        """Return the text of a conversation, cut right after its final answer if that is open, and its images."""
        prompt = self.prompt
        messages: list[str] = []
        images: list[Any] = []
        for number, turn in enumerate(chat):
            parts = turn["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            content = "".join(part["text"] for part in parts if part["type"] == "text")
            for part in parts:
                if part["type"] == "image":
                    images += [part[key] for key in ("image", "path", "url") if part.get(key) is not None][:1]
            if turn["role"] == "system" and number == 0:
                prompt = dataclasses.replace(prompt, system=content)  # type: ignore[type-var]
                continue
            expected = ("user", "assistant")[len(messages) % 2]
            if turn["role"] != expected:
                raise SpecError(f"turn {number + 1}: role {turn['role']!r}, expected {expected!r} (roles alternate)")
            messages.append(content)
        text = prompt.conversation(messages)
        if is_open:
            if not messages or len(messages) % 2:
                raise SpecError("continue_final_message: the conversation does not end with an answer")
            answer = clean_message(messages[-1])
            text = text[: text.rindex(answer) + len(answer)] if answer else prompt.conversation(messages[:-1])
        return text, images

    def _pixels(self, images: Sequence[Any]) -> tuple[dict[str, Tensor], list[int]]:
        """Put images on their canvases; return the tensors and the number of visual tokens of each image."""
        if not images:
            return {}, []
        pixels, sizes = self.image_processor.place([open_picture(image) for image in images])
        if self.num_visual_tokens is not None:
            return {"pixel_values": pixels}, [self.num_visual_tokens] * len(pixels)
        if (self.backbone or {}).get("wiring") == "as-published":  # padding is encoded, as in the published collator
            height, width = pixels.shape[2:]
            return {"pixel_values": pixels}, [self._count_tokens(height, width)] * len(pixels)
        return {"pixel_values": pixels, "image_sizes": sizes}, [self._count_tokens(*size) for size in sizes.tolist()]

    def _count_tokens(self, height: int, width: int) -> int:
        """Return the number of visual tokens of a canvas."""
        fields = self.backbone or {"name": ""}
        if fields["name"] not in catalog.names():
            raise SpecError(f"backbone {fields['name']}: a canvas that varies with the image needs a catalog backbone")
        entry = catalog.entry(fields["name"]).wired(fields["wiring"]).with_changes(tap=fields["tap"])
        with torch.device("meta"):
            rows, columns = entry.build().token_grid(height, width)
        return rows * columns

    def _ids(self, text: str, num_visual: int, add_bos: bool) -> list[int]:
        """Return the token ids of a prompt, with room for its visual tokens."""
        text = _PLACEHOLDER.sub("", text)
        ids = text_ids(self.tokenizer, [text], begins=add_bos)[0]
        bos = self.tokenizer.bos_token_id
        if add_bos and bos is not None and ids[:2] == [bos, bos]:  # written in the text, and added again
            ids = ids[1:]
        return insert_visual(ids, num_visual, self.image_token_id, bos_first=bos is not None and ids[:1] == [bos])


def _match_images(images: Any, texts: Sequence[str]) -> list[Any]:
    """Return for each text its image, or None."""
    if images is None:
        return [None] * len(texts)
    if not isinstance(images, list | tuple):
        images = [images]
    if any(isinstance(image, list | tuple) for image in images):
        for number, of_text in enumerate(images, start=1):
            if len(of_text or ()) > 1:
                raise DataError(f"text {number} has {len(of_text)} images; this VLM takes one per conversation")
        images = [of_text[0] if of_text else None for of_text in images]
    if len(images) == len(texts):
        return list(images)
    has_image = [IMAGE_PLACEHOLDER in text for text in texts]
    if sum(has_image) != len(images):
        raise DataError(f"{len(images)} images for {len(texts)} texts: pass one per text, or None for a text without")
    remaining = iter(images)
    return [next(remaining) if is_shown else None for is_shown in has_image]
