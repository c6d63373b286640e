"""Ask a trained run about one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eyeswap.errors import RunError
from eyeswap.files import read_json


@dataclass(frozen=True)
class Answer:
    """A VLM's answer.

    Attributes:
        text: as generated.
        box_px: ``(x0, y0, x1, y1)`` in pixels of the image, if the answer is a box.
    """

    text: str
    box_px: tuple[float, float, float, float] | None


def ask(run_dir: Path, image_path: Path, question: str, max_new_tokens: int = 64) -> Answer:
    """Answer a question about an image with a run's VLM.

    A question of one line gets the short-answer instruction that the VLM was trained with; a request that begins with
    "Please", or one of several lines, is asked as it is.

    Args:
        run_dir: a run's folder.
        image_path: any image file.
        question: the question, or a grounding request: "Please provide the bounding box coordinate of the
            region this sentence describes: " and an expression.
        max_new_tokens: longest answer.

    Raises:
        RunError: if the run has no trained model yet.
        DataError: if the image cannot be read.
    """
    import torch

    from eyeswap.backbones.weights import load_backbone
    from eyeswap.evaluation.benchmark import SHORT_ANSWER
    from eyeswap.evaluation.boxes import parse_box
    from eyeswap.evaluation.generate import Generator, Request
    from eyeswap.files import open_image
    from eyeswap.vlm.model import VisionLanguageModel

    if not (run_dir / "model").is_dir():
        raise RunError(f"{run_dir}: no trained model here; name a run folder such as runs/quickstart/vit/seed-7")
    image = open_image(image_path)
    model = VisionLanguageModel.load(run_dir / "model")
    facts = read_json(run_dir / "model" / "vlm.json")
    loaded = load_backbone(facts["backbone"], wiring=facts["wiring"])
    pixels, _ = loaded.geometry.place(image)
    with torch.inference_mode():
        tokens = loaded.network(pixels[None])
    as_it_is = "\n" in question or question.startswith("Please")
    message = question if as_it_is else f"{question}\n{SHORT_ANSWER}"
    request = Request(str(image_path), model.prompt.question(message), max_new_tokens=max_new_tokens)
    text = next(iter(Generator(model).answer(tokens, [[request]])))[0].text
    box = parse_box(text)
    if box is None:
        return Answer(text, None)
    width, height = image.size
    return Answer(text, (box[0] * width, box[1] * height, box[2] * width, box[3] * height))
