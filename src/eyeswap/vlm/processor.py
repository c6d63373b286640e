"""From images and text to what the VLM takes: pixels on the backbone's canvas, token ids with room for visual tokens.

``processor(images=..., text=...)`` takes whole prompts, as `apply_chat_template` or ``processor.prompt.question`` write
them, one image or none each. ``<image>`` in a text is removed: visual tokens go right behind the
beginning-of-sequence token wherever it stood. Rows are padded on the left, ready for ``generate``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from eyeswap.backbones import catalog
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import DataError, SpecError
from eyeswap.geometry import ImageGeometry
from eyeswap.images import open_picture
from eyeswap.vlm.prompt import IMAGE_PLACEHOLDER, VICUNA_SYSTEM, PlainPrompt, Prompt, TemplatePrompt, VicunaPrompt
from eyeswap.vlm.text_ids import insert_visual, text_ids

_PLACEHOLDER = re.compile(rf"\n?{IMAGE_PLACEHOLDER}\n?")


class VisionLanguageProcessor(ProcessorMixin):  # type: ignore[misc]  # transformers carries no types
    """Image geometry, tokenizer and chat frame of a VLM.

    Args:
        tokenizer: the LLM's tokenizer, with ``<image>``.
        geometry: fields of the `ImageGeometry`; None for a VLM without backbone, which takes text and ready tokens.
        num_visual_tokens: visual tokens of one canvas; None where the canvas varies with the image.
        frame: ``vicuna``, ``plain``, or ``template`` for the tokenizer's own chat template.
        system: text of the system message.
        end_of_answer: what closes an answer where it is no template.
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
        self.geometry, self.num_visual_tokens, self.backbone = geometry, num_visual_tokens, backbone
        self.frame, self.system, self.end_of_answer = frame, system, end_of_answer
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)

    @classmethod
    def of(cls, tokenizer: Any, prompt: Prompt, backbone: LoadedBackbone | None = None) -> VisionLanguageProcessor:
        """Make the processor of a chat frame and a backbone."""
        about: dict[str, Any] = {}
        if backbone is not None:
            about["geometry"] = backbone.geometry.model_dump(mode="json")
            about["backbone"] = {"name": backbone.name, "wiring": backbone.wiring, "tap": backbone.tap}
            if backbone.geometry.strategy != "keep-ratio":
                rows, columns = backbone.token_grid
                about["num_visual_tokens"] = rows * columns
        frame = "template"
        if isinstance(prompt, VicunaPrompt | PlainPrompt):
            frame = "vicuna" if isinstance(prompt, VicunaPrompt) else "plain"
            about["end_of_answer"] = prompt.end_of_answer
        return cls(tokenizer, frame=frame, system=prompt.system, **about)

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
        if self.geometry is None:
            raise SpecError("this VLM was made without a backbone, so it takes no images: pass visual_tokens")
        return ImageGeometry.model_validate(self.geometry)

    def __call__(self, images: Any = None, text: Any = None, return_tensors: str = "pt", **kwargs: Any) -> BatchFeature:
        """Prepare a batch for `VisionLanguageModel`.

        Args:
            images: an image, one a text, or lists of at most one a text; each a PIL image, a path, an array or None.
                Fewer images than texts go to the texts that show ``<image>``.
            text: a prompt or several.
            return_tensors: ``pt``.
            **kwargs: ``add_special_tokens`` goes to the tokenizer; everything else is ignored.

        Returns:
            ``input_ids`` and ``attention_mask`` ``[B, T]``, padded on the left; with images ``pixel_values``
            ``[I, 3, H, W]``, and ``image_sizes`` ``[I, 2]`` (height, width) where canvases vary.

        Raises:
            DataError: if an image cannot be read, or the numbers of images and texts do not fit.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pictures = _one_a_text(images, texts)
        data, counts = self._pixels([open_picture(picture) for picture in pictures if picture is not None])
        add_bos = bool(kwargs.get("add_special_tokens", True))
        remaining = iter(counts)
        rows = [
            self._row(one, next(remaining) if picture is not None else 0, add_bos)
            for one, picture in zip(texts, pictures, strict=True)
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
        **kwargs: Any,
    ) -> Any:
        """Write conversations in the chat frame of this VLM.

        A conversation is a list of ``{"role": "user", "content": ...}`` whose content is a text or a list of parts
        ``{"type": "image", "image": picture}`` and ``{"type": "text", "text": ...}``. Behind a user message stands the
        header of the answer to come.

        Args:
            conversation: one conversation or several.
            chat_template: must be None; the frame belongs to the model.
            tokenize: whether to return token ids instead of text.
            return_dict: whether to return all that the model takes, pixels too.
            **kwargs: ignored.

        Raises:
            SpecError: if roles do not alternate from ``user``, or another template is asked for.
        """
        if chat_template is not None:
            raise SpecError("the chat frame belongs to the model; write a prompt of your own and pass it as text")
        is_batch = bool(conversation) and not isinstance(conversation[0], dict)
        chats = conversation if is_batch else [conversation]
        read = [self._read_chat(chat) for chat in chats]
        texts = [text for text, _ in read]
        if not tokenize:
            return texts if is_batch else texts[0]
        inputs = self(images=[pictures for _, pictures in read], text=texts)
        return inputs if return_dict else inputs["input_ids"]

    def _read_chat(self, chat: Sequence[Any]) -> tuple[str, list[Any]]:
        """Return the text of a conversation and its images."""
        prompt = self.prompt
        messages: list[str] = []
        pictures: list[Any] = []
        for number, turn in enumerate(chat):
            parts = turn["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            content = "".join(part["text"] for part in parts if part["type"] == "text")
            found = [part for part in parts if part["type"] == "image"]
            pictures += [next((part[key] for key in ("image", "path", "url") if key in part), None) for part in found]
            if turn["role"] == "system" and number == 0:
                prompt = dataclasses.replace(prompt, system=content)  # type: ignore[type-var]
                continue
            expected = ("user", "assistant")[len(messages) % 2]
            if turn["role"] != expected:
                raise SpecError(f"turn {number + 1}: role {turn['role']!r}, expected {expected!r} (roles alternate)")
            messages.append(content)
        return prompt.conversation(messages), [picture for picture in pictures if picture is not None]

    def _pixels(self, pictures: Sequence[Image.Image]) -> tuple[dict[str, Tensor], list[int]]:
        """Put images on their canvases; return the tensors and the number of visual tokens of each image."""
        if not pictures:
            return {}, []
        canvases = [self.image_geometry.place(picture)[0] for picture in pictures]  # each [3, H, W]
        if self.num_visual_tokens is not None:
            return {"pixel_values": torch.stack(canvases)}, [self.num_visual_tokens] * len(canvases)
        sizes = torch.tensor([canvas.shape[1:] for canvas in canvases])  # [I, 2]
        height, width = (int(side) for side in sizes.amax(dim=0))
        pixels = torch.zeros(len(canvases), 3, height, width)  # zeros behind normalisation: the mean colour
        for row, canvas in enumerate(canvases):
            pixels[row, :, : canvas.shape[1], : canvas.shape[2]] = canvas
        if (self.backbone or {}).get("wiring") == "as-published":  # padding is seen, as in the published collator
            return {"pixel_values": pixels}, [self._tokens_of(height, width)] * len(canvases)
        return {"pixel_values": pixels, "image_sizes": sizes}, [self._tokens_of(*size) for size in sizes.tolist()]

    def _tokens_of(self, height: int, width: int) -> int:
        about = self.backbone or {"name": ""}
        if about["name"] not in catalog.names():
            raise SpecError(f"backbone {about['name']}: canvases that vary need a backbone of the catalog")
        entry = catalog.entry(about["name"]).wired(about["wiring"]).with_changes(tap=about["tap"])
        with torch.device("meta"):
            rows, columns = entry.build().token_grid(height, width)
        return rows * columns

    def _row(self, text: str, num_visual: int, add_bos: bool) -> list[int]:
        """Return the ids of a prompt, room for visual tokens behind BOS or, without one, in front."""
        text = _PLACEHOLDER.sub("", text)
        ids = text_ids(self.tokenizer, [text], begins=add_bos)[0]
        bos = self.tokenizer.bos_token_id
        if add_bos and bos is not None and ids[:2] == [bos, bos]:  # the text wrote it, the tokenizer added it again
            ids = ids[1:]
        return insert_visual(ids, num_visual, self.image_token_id, bos_first=bos is not None and ids[:1] == [bos])


def _one_a_text(images: Any, texts: Sequence[str]) -> list[Any]:
    """Return one image or None for each text."""
    if images is None:
        return [None] * len(texts)
    if not isinstance(images, list | tuple):
        images = [images]
    if any(isinstance(image, list | tuple) for image in images):
        crowded = next((row for row, image in enumerate(images, start=1) if len(image or ()) > 1), None)
        if crowded is not None:
            raise DataError(f"text {crowded} has {len(images[crowded - 1])} images; this VLM takes one a conversation")
        images = [image[0] if image else None for image in images]
    if len(images) == len(texts):
        return list(images)
    shown = [IMAGE_PLACEHOLDER in text for text in texts]
    if sum(shown) != len(images):
        raise DataError(f"{len(images)} images for {len(texts)} texts: give one a text, or None where a text has none")
    remaining = iter(images)
    return [next(remaining) if has_image else None for has_image in shown]
