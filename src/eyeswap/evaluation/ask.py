"""Asking a VLM about one image, and locating the VLM of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyeswap.errors import RunError
from eyeswap.files import read_json
from eyeswap.runs.folder import RunFolder

if TYPE_CHECKING:
    from eyeswap.vlm.model import VisionLanguageModel


@dataclass(frozen=True)
class Answer:
    """A VLM's answer.

    Attributes:
        text: as generated.
        box_px: ``(x0, y0, x1, y1)`` in pixels of the image, if the answer is a box.
    """

    text: str
    box_px: tuple[float, float, float, float] | None


def ask_model(model: VisionLanguageModel, image: Any, question: str, max_new_tokens: int = 64) -> Answer:
    """Answer a question about an image with a VLM.

    A one-line question gets the short-answer instruction that the VLM was trained with. A request that begins with
    "Please", or has several lines, is passed unchanged.

    Args:
        model: the VLM, on any device.
        image: anything that `eyeswap.images.open_picture` takes.
        question: the question, or a grounding request: "Please provide the bounding box coordinate of the
            region this sentence describes: " and an expression.
        max_new_tokens: longest answer.

    Raises:
        DataError: if the image cannot be read.
    """
    from eyeswap.data.formats.vqa import SHORT_ANSWER
    from eyeswap.evaluation.boxes import parse_box, to_original
    from eyeswap.evaluation.frames import View, frame_of
    from eyeswap.evaluation.generate import Generator, Request
    from eyeswap.images import open_picture

    picture = open_picture(image)
    geometry = model.processor.image_geometry
    pixels, _ = geometry.place(picture)
    is_complete = "\n" in question or question.startswith("Please")
    message = question if is_complete else f"{question}\n{SHORT_ANSWER}"
    request = Request(model.prompt.question(message), max_new_tokens=max_new_tokens)
    text = Generator(model).answer(model.encode(pixels[None].to(model.device)), [[request]])[0][0].text
    box = parse_box(text)
    if box is None:
        return Answer(text, None)
    view = View.of(geometry, model.backbone.name, model.backbone.family)
    placement = frame_of(getattr(model.config, "box_frame", "original"), picture.size, view)
    if placement is not None:
        box = to_original(box, placement)
    width, height = picture.size
    return Answer(text, (box[0] * width, box[1] * height, box[2] * width, box[3] * height))


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
