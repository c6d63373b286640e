"""Which frame a run's boxes are in, in training targets and in answers; see `boxes` for the two frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from eyeswap.data.formats import Example
from eyeswap.data.instruction import Instruction
from eyeswap.evaluation.boxes import BOX_PATTERN, write_in_frame
from eyeswap.evaluation.grounding import Grounding
from eyeswap.evaluation.runner import Asked
from eyeswap.geometry import ImageGeometry
from eyeswap.images import image_size
from eyeswap.recipe import BoxFrame


def messages_in_frame(
    instructions: Sequence[Instruction], root: Path, frame: BoxFrame, geometry: ImageGeometry
) -> Iterator[Sequence[str]]:
    """Yield the messages of each conversation with their boxes in a frame; the files have that of the original image.

    Args:
        instructions: the conversations.
        root: folder that image paths are relative to.
        frame: the frame wanted.
        geometry: how images meet the canvas.
    """
    for instruction in instructions:
        has_box = any(BOX_PATTERN.search(message) for message in instruction.messages)
        size = None
        if frame == "canvas" and has_box and instruction.image is not None:
            size = image_size(root / instruction.image)
        if size is None:
            yield instruction.messages
            continue
        placement = geometry.placement(*size)
        yield [write_in_frame(message, frame, placement) for message in instruction.messages]


def asked_in_frame(asked: Sequence[Asked], root: Path, frame: BoxFrame, geometry: ImageGeometry) -> list[Asked]:
    """Return benchmarks that read boxes in a frame, and know the canvas so that they can tell both overlaps.

    Args:
        asked: benchmarks, examples, baselines; those that ask for no boxes stay as they are.
        root: folder that image paths are relative to.
        frame: what the model's boxes are fractions of.
        geometry: how images meet the canvas.
    """
    return [
        (replace(benchmark, box_frame=frame, geometry=geometry), _with_sizes(examples, root), baseline)
        if isinstance(benchmark, Grounding)
        else (benchmark, examples, baseline)
        for benchmark, examples, baseline in asked
    ]


def _with_sizes(examples: Sequence[Example], root: Path) -> list[Example]:
    """Return examples with the sizes of their images, from the image where their file does not tell."""
    return [
        example if example.size else replace(example, size=image_size(root / example.image)) for example in examples
    ]
