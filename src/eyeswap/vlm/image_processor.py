"""The image processor of a VLM: images onto the canvas of its backbone, as transformers' pipelines ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin

from eyeswap.errors import SpecError
from eyeswap.geometry import ImageGeometry
from eyeswap.images import open_picture


class CanvasImageProcessor(ImageProcessingMixin):  # type: ignore[misc]  # transformers carries no types
    """Puts images on the canvas of a backbone.

    Args:
        geometry: fields of the `ImageGeometry`; None for a VLM without backbone, which takes no images.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(self, geometry: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.geometry = geometry

    @property
    def image_geometry(self) -> ImageGeometry:
        """How an image becomes pixels.

        Raises:
            SpecError: if the VLM was made without a backbone.
        """
        if self.geometry is None:
            raise SpecError("this VLM was made without a backbone, so it takes no images: pass visual_tokens")
        return ImageGeometry.model_validate(self.geometry)

    def __call__(self, images: Any, **_: Any) -> BatchFeature:
        """Put one or several images, in any form that `eyeswap.images.open_picture` takes, on canvases; see `place`."""
        images = images if isinstance(images, list | tuple) else [images]
        pixels, sizes = self.place([open_picture(image) for image in images])
        return BatchFeature({"pixel_values": pixels, "image_sizes": sizes})

    def place(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Put images on canvases.

        Returns:
            Pixels ``[I, 3, H, W]``, where smaller canvases are padded with zeros on the right and below, and the size
            ``[I, 2]`` (height, width) of each canvas.
        """
        canvases = [self.image_geometry.place(image)[0] for image in images]  # each [3, h, w]
        sizes = torch.tensor([canvas.shape[1:] for canvas in canvases])  # [I, 2]
        height, width = (int(side) for side in sizes.amax(dim=0))
        pixels = torch.zeros(len(canvases), 3, height, width)  # after normalisation, zero is the mean colour
        for row, canvas in enumerate(canvases):
            pixels[row, :, : canvas.shape[1], : canvas.shape[2]] = canvas
        return pixels, sizes
