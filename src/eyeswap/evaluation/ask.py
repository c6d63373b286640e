"""Asking a VLM about one image, and locating the VLM of a run."""

from __future__ import annotations

import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyeswap.errors import RunError
from eyeswap.files import read_json
from eyeswap.runs.folder import RunFolder

if TYPE_CHECKING:
    from PIL import Image

    from eyeswap.geometry import Box
    from eyeswap.vlm.model import VisionLanguageModel


@dataclass(frozen=True)
class Answer:
    """A VLM's answer.

    Attributes:
        text: as generated; a count where a letter stands for one, and the most probable of given choices.
        box_px: ``(x0, y0, x1, y1)`` in pixels of the image, if the answer is a box.
        probabilities: of each choice, if choices were given; they sum to 1.
        num_tokens: generated tokens.
        seconds: time that the answer took, the image included.
    """

    text: str
    box_px: tuple[float, float, float, float] | None
    probabilities: Mapping[str, float] | None = None
    num_tokens: int = 0
    seconds: float = 0.0


def ask_model(
    model: VisionLanguageModel, image: Any, question: str, max_new_tokens: int = 64, choices: Sequence[str] = ()
) -> Answer:
    """Answer a question about an image with a VLM.

    A one-line question gets the short-answer instruction that the VLM was trained with. A request that begins with
    "Please", or has several lines, is passed unchanged.

    Args:
        model: the VLM, on any device.
        image: anything that `eyeswap.images.open_picture` takes.
        question: the question, or a grounding request (`eyeswap.evaluation.grounding.box_request`).
        max_new_tokens: longest answer.
        choices: answers to choose from, offered with letters; the most probable letter decides.

    Raises:
        DataError: if the image cannot be read, or there are more choices than letters.
        SpecError: if a letter is not one token of the LLM.
    """
    from eyeswap.data.formats.tallyqa import choice_message
    from eyeswap.data.formats.vqa import SHORT_ANSWER
    from eyeswap.evaluation.counting import LETTERS
    from eyeswap.evaluation.generate import Generator, Request
    from eyeswap.images import open_picture

    picture = open_picture(image)
    letters = tuple(string.ascii_uppercase[: len(choices)])
    if choices:
        message = choice_message(question, choices)
    elif "\n" in question or question.startswith("Please"):
        message = question
    else:
        message = f"{question}\n{SHORT_ANSWER}"
    request = Request(model.prompt.question(message), letters, max_new_tokens)
    start = time.perf_counter()
    pixels, _ = model.processor.image_geometry.place(picture)
    answer = Generator(model).answer(model.encode(pixels[None].to(model.device)), [[request]])[0][0]
    seconds = time.perf_counter() - start
    if answer.probabilities is not None:
        by_choice = dict(zip(choices, answer.probabilities, strict=True))
        return Answer(max(by_choice, key=by_choice.__getitem__), None, by_choice, answer.num_tokens, seconds)
    text = answer.text
    if question.lower().startswith("how many") and text.strip() in LETTERS:
        text = str(LETTERS.index(text.strip()))  # the VLM also learned to count with TallyQA's letters
    return Answer(text, _box_px(model, picture, text), None, answer.num_tokens, seconds)


def _box_px(model: VisionLanguageModel, picture: Image.Image, text: str) -> tuple[float, float, float, float] | None:
    """Return the box of an answer in pixels of the image; None if it is not a box."""
    box = answered_box(model, picture.size, text)
    if box is None:
        return None
    width, height = picture.size
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def answered_box(model: VisionLanguageModel, size: tuple[int, int], text: str) -> Box | None:
    """Return the box of an answer in 0..1 of the image, whatever frame the VLM answers in; None if it is not a box.

    Args:
        model: the VLM.
        size: width and height of the image.
        text: the answer.
    """
    from eyeswap.evaluation.boxes import parse_box, to_original
    from eyeswap.evaluation.frames import View, frame_of

    box = parse_box(text)
    if box is None:
        return None
    view = View.of(model.processor.image_geometry, model.backbone.name, model.backbone.family)
    placement = frame_of(getattr(model.config, "box_frame", "original"), size, view)
    return box if placement is None else to_original(box, placement)


def with_box(picture: Image.Image, box_px: tuple[float, float, float, float]) -> Image.Image:
    """Return a copy of an image with a box drawn in; ``box_px`` is left, top, right, bottom."""
    from PIL import ImageDraw

    drawn = picture.copy()
    left, top, right, bottom = box_px
    corners = min(left, right), min(top, bottom), max(left, right), max(top, bottom)
    ImageDraw.Draw(drawn).rectangle(corners, outline=(230, 30, 60), width=max(1, round(max(picture.size) / 200)))
    return drawn


def model_folder(folder: Path) -> Path:
    """Return the folder of a run's VLM, or the folder itself if it contains a saved VLM.

    Raises:
        RunError: if there is no trained model.
    """
    if RunFolder(folder).is_trained:
        return RunFolder(folder).model
    if (folder / "checkpoints" / "latest-checkpoint.pt").is_file():
        raise RunError(f"{folder}: a released checkpoint; first `eyeswap models import {folder} OUT`, then use OUT")
    if (folder / "config.json").is_file() and read_json(folder / "config.json").get("model_type") == "eyeswap":
        return folder
    raise RunError(f"{folder}: no trained model here; name a run folder such as runs/quickstart/vit/seed-7")
