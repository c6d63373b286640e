"""Draw a scene: coloured handwriting and shapes on a textured canvas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from eyeswap.data.digits.scene import COLOURS, Scene, Thing, scans

_SUPERSAMPLE = 4


def render(scene: Scene) -> Image.Image:
    """Return the scene as an RGB image of its own size; the same scene gives the same pixels."""
    rng = np.random.default_rng(scene.texture_seed)
    canvas = _texture(rng, scene.width, scene.height)  # [H, W, 3] float, 0..255
    for thing in scene.things:
        x, y, side = thing.frame
        mask = _mask(thing)[:, :, None]  # [side, side, 1], 0..1
        colour = np.asarray(COLOURS[thing.colour], np.float32) * float(rng.uniform(0.85, 1.0))
        patch = canvas[y : y + side, x : x + side]
        patch += mask * (colour - patch)
    canvas += 4 * rng.standard_normal(canvas.shape, np.float32)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def _texture(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.float32]:
    """Smooth dark noise with soft stripes, in a random dull tint."""
    coarse = rng.uniform(0, 1, (int(rng.integers(3, 9)), int(rng.integers(3, 9)))).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    angle, frequency = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(6, 24)
    across = np.arange(width, dtype=np.float32) * float(frequency * np.cos(angle))
    down = np.arange(height, dtype=np.float32) * float(frequency * np.sin(angle))
    stripes = np.sin(across + down[:, None])  # [H, W]
    tint = rng.uniform(0.7, 1.0, 3).astype(np.float32)
    shade = float(rng.uniform(20, 50)) + 55 * smooth + float(rng.uniform(0, 10)) * stripes
    return np.asarray(shade[:, :, None] * tint, np.float32)


def _mask(thing: Thing) -> npt.NDArray[np.float32]:
    side = thing.frame[2]
    if thing.is_digit:
        scan = Image.fromarray(scans()[0][thing.scan])
        ink = np.asarray(scan.resize((side, side), Image.Resampling.BICUBIC))
        return np.clip((ink - 0.15) / 0.5, 0, 1)  # a firm stroke instead of a grey blur
    big = side * _SUPERSAMPLE
    drawing = Image.new("L", (big, big))
    pen = ImageDraw.Draw(drawing)
    if thing.kind == "circle":
        pen.ellipse((0, 0, big - 1, big - 1), fill=255)
    elif thing.kind == "square":
        pen.rectangle((0, 0, big - 1, big - 1), fill=255)
    else:
        pen.polygon([(big / 2, 0), (big - 1, big - 1), (0, big - 1)], fill=255)
    covered = np.asarray(drawing.resize((side, side), Image.Resampling.BOX), np.float32)
    return np.asarray(covered / 255, np.float32)
