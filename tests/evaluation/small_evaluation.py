"""A small evaluation for tests: tiny VLM, a few images, four benchmarks that share them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone
from eyeswap.data.formats import Example
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.frames import View
from eyeswap.evaluation.grounding import asked_in_frame
from eyeswap.evaluation.runner import Asked
from eyeswap.geometry import ImageGeometry
from eyeswap.recipe import TestBoxFrame
from eyeswap.tokens.cache import ImageEncoder
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

GEOMETRY = ImageGeometry(strategy="letterbox", canvas=(16, 16))
NUM_IMAGES = 8
COLOURS = ("red", "blue", "green", "yellow")


class Cells(VisionBackbone):
    """Mean colour of 2 x 2 cells, widened to 8 channels."""

    embed_dim = 8

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        cells = torch.nn.functional.adaptive_avg_pool2d(pixel_values, 2)  # [B, 3, 2, 2]
        return torch.cat([cells, cells, cells[:, :2]], dim=1).permute(0, 2, 3, 1)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return 2, 2


def write_images(root: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        pixels = generator.integers(0, 255, (10 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")


def load_model(tiny_llm: Path) -> VisionLanguageModel:
    """A VLM with wild weights, so that it does not say the same about everything."""
    llm, tokenizer, prompt = load_llm(tiny_llm)
    model = VisionLanguageModel.from_parts(llm, tokenizer, build_connector("gelu-mlp", 8, 32, seed=1), prompt)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5, generator=generator)
    return model.eval()


def encoder(root: Path) -> ImageEncoder:
    return ImageEncoder(Cells(), GEOMETRY, root)


def example(name: str, number: int, turn: int) -> Example:
    colour = COLOURS[(number + turn) % 4]
    about = {
        "vqav2": (f"What is left of the {colour} circle {'now ' * turn}?", (colour,) * 10),
        "pope": (f"Is there a {colour} circle in the image?", ("yes", "no")[turn % 2]),
        "tallyqa": (f"How many {colour} digits are there?", turn),
        "refcoco": (f"the {colour} circle", (0.1, 0.2, 0.5, 0.9)),
    }
    question, truth = about[name]
    return Example(f"{name}/{number}/{turn}", f"{number}.png", str(number), "val", "kind", question, truth)


def asked(
    root: Path, frame: TestBoxFrame = "original", names: tuple[str, ...] = ("vqav2", "pope", "tallyqa", "refcoco")
) -> list[Asked]:
    """Benchmarks with three questions about each image, and two more about the first."""
    rows: list[Asked] = []
    for name in names:
        turns = [(number, turn) for number in range(NUM_IMAGES) for turn in range(3 if number else 5)]
        examples = [example(name, number, turn) for number, turn in turns]
        benchmark = get_benchmark(name)
        rows.append((benchmark, examples, TrivialBaseline.fit(benchmark, examples)))
    return asked_in_frame(rows, root, frame, View(GEOMETRY, "letterbox"), exact_truth=False)
