"""Read image files as RGB pixels; every file is treated as hostile.

Every image is read by one of two functions, and every label map by `open_labels`:

- `open_image` reads the files of data sets as they are stored, like the published pipelines: EXIF orientation is
  ignored, and transparency is dropped.
- `open_picture` reads an image that a user supplies as a path, an address, a PIL image or an array: it is turned
  upright by its EXIF orientation, and transparent parts become white.

Both scale 16-bit grey to 8 bits (the published pipelines clip it to white) and refuse truncated files.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from PIL import ExifTags, Image, ImageOps

from eyeswap.errors import DataError, ShapeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_IMAGE_PIXELS = 120_000_000
MAX_ADDRESS_BYTES = 100_000_000
TIMEOUT_S = 20.0
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type, PNG specification section 11.2.2
# First column, first row, column step and row step of the seven passes of an interlaced PNG (section 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def open_image(source: Path | IO[bytes]) -> Image.Image:
    """Read an image file of a data set as RGB, as it is stored.

    Raises:
        DataError: if it is missing, truncated, not an image, or claims more than ``MAX_IMAGE_PIXELS`` pixels.
    """
    with _opened(source) as image:
        return _rgb(image)


def open_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Read a label map: an image of one 8-bit channel, or with a palette, whose values are categories.

    Returns:
        ``[H, W]``, the values as stored.

    Raises:
        DataError: as `open_image`, or if it has several channels or other than 8 bits.
    """
    import numpy as np

    with _opened(path) as image:
        if image.mode not in ("L", "P"):
            raise DataError(f"{path}: a label map must be an image of one 8-bit channel, this one is {image.mode}")
        return np.array(image, dtype=np.uint8)


def open_picture(source: Any) -> Image.Image:
    """Read a user's image as RGB, upright by its EXIF orientation and with transparent parts on white.

    Args:
        source: a path, an ``http(s):`` or ``data:`` address, a PIL image, or an array ``[H, W]``, ``[H, W, 3]`` or
            ``[H, W, 4]`` of uint8 or uint16.

    Raises:
        DataError: if a file or address cannot be read, is truncated, not an image, or has too many pixels.
        ShapeError: if the source is of another kind, or an array of another shape or type.
    """
    if isinstance(source, Image.Image):
        return _upright_on_white(source, "the image")
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        shown = source if len(source) <= 80 else f"{source[:77]}..."
        with _opened(io.BytesIO(_content_of_address(source, shown)), shown) as image:
            return _upright_on_white(image, shown)
    if isinstance(source, str | Path):
        with _opened(Path(source)) as image:
            return _upright_on_white(image, str(source))
    return _upright_on_white(_from_array(source), "the array")


def image_size(path: Path) -> tuple[int, int] | None:
    """Return an image's ``(width, height)`` as stored, from its header; None if it is not a readable image."""
    try:
        with _quiet(), Image.open(path, formats=_formats()) as image:
            return image.size
    except Exception:  # plug-ins raise errors of their own
        return None


def traits(path: Path) -> tuple[str, ...]:
    """Return what of an image `open_picture` or other tools may read differently from `open_image`.

    Returns:
        Some of ``turned`` (by its EXIF orientation), ``transparent`` and ``16-bit``; none if it cannot be read.
    """
    try:
        with _quiet(), Image.open(path, formats=_formats()) as image:
            holds = {
                "turned": image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1),
                "transparent": image.has_transparency_data,
                "16-bit": image.mode.startswith("I"),
            }
    except Exception:  # plug-ins raise errors of their own
        return ()
    return tuple(name for name in holds if holds[name])


@contextmanager
def _opened(source: Path | IO[bytes], name: str | None = None) -> Iterator[Image.Image]:
    """Yield a decoded image; every error of Pillow and its plug-ins becomes one line about the file."""
    name = name or str(source)
    try:
        with _quiet(), Image.open(source, formats=_formats()) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise DataError(f"{name}: {image.width}x{image.height} pixels exceed the limit of {MAX_IMAGE_PIXELS:,}")
            image.load()
            if image.format == "PNG" and _may_end_early(image):
                _refuse_truncated_png(source)
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name}: no such image") from None
    except Exception as error:  # plug-ins raise errors of their own, and a hostile file can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: not a readable image: {reason}") from None


def _formats() -> list[str]:
    """Return the formats to open: all of Pillow's except PostScript, which is a program that Pillow would run."""
    Image.init()
    return [form for form in Image.ID if form != "EPS"]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB; grey of more than 8 bits is scaled, not clipped.

    Pillow's own conversion clips such grey at 255, which makes nearly all of it white. 16-bit values are divided by
    257; floating-point values, which have no defined range, are scaled from their minimum and maximum.
    """
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it contains values that are not finite numbers")
    if image.mode == "I" and low >= 0 and high <= 255:  # 8-bit grey stored in 32-bit integers
        low, high = 0.0, 255.0
    elif image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    grey = np.round((values - low) * (255 / max(high - low, np.finfo(np.float64).tiny)))
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _upright_on_white(image: Image.Image, name: str) -> Image.Image:
    try:
        with _quiet():
            if min(image.size) == 0:
                raise ValueError("a side of 0 pixels")
            image = ImageOps.exif_transpose(image)
            if not image.has_transparency_data:
                return _rgb(image)
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    except Exception as error:
        raise DataError(f"{name}: not a readable image: {error}") from None


def _from_array(array: Any) -> Image.Image:
    """Return an array as a PIL image."""
    import numpy as np

    values = np.asarray(array)
    colours = values.ndim == 3 and values.shape[2] in (3, 4)
    if values.dtype not in (np.uint8, np.uint16) or not (values.ndim == 2 or colours):
        kind = f"{values.dtype} {list(values.shape)}" if values.ndim else type(array).__name__
        raise ShapeError(
            f"an image must be a PIL image, a path, or a uint8 or uint16 array [H, W], [H, W, 3] or [H, W, 4], not "
            f"{kind}"
        )
    if 0 in values.shape:
        raise ShapeError(f"an image must not have a side of 0 pixels: {list(values.shape)}")
    if values.dtype == np.uint16:
        values = np.round(values / 257).astype(np.uint8)
    return Image.fromarray(values)


def _content_of_address(address: str, shown: str) -> bytes:
    """Return the bytes behind a ``data:`` or ``http(s):`` address."""
    if address.startswith("data:"):
        head, comma, content = address.partition(",")
        if not comma or not head.endswith(";base64"):
            raise DataError(f"{shown}: not a data URL of the form data:image/png;base64,...")
        try:
            return base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise DataError(f"{shown}: not base64: {error}") from None
    import urllib.request

    try:
        request = urllib.request.Request(address, headers={"User-Agent": "eyeswap"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            received: bytes = response.read(MAX_ADDRESS_BYTES + 1)
    except (OSError, ValueError) as error:  # urllib's own errors are OSErrors
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{shown}: cannot be fetched: {reason}") from None
    if len(received) > MAX_ADDRESS_BYTES:
        raise DataError(f"{shown}: larger than {MAX_ADDRESS_BYTES:,} bytes")
    return received


def _may_end_early(image: Image.Image) -> bool:
    """Return whether one of the last two rows of a decoded PNG is black; Pillow silently leaves missing rows black."""
    last_rows = image.crop((0, max(0, image.height - 2), image.width, image.height))
    return any(
        not last_rows.crop((0, row, image.width, row + 1)).getbbox(alpha_only=False) for row in range(last_rows.height)
    )


def _refuse_truncated_png(source: Path | IO[bytes]) -> None:
    """Check that a PNG's compressed data contain all rows that its header declares.

    Raises:
        DataError: if they end early.
    """
    if isinstance(source, Path):
        content = source.read_bytes()
    else:
        source.seek(0)
        content = source.read()
    width, height, depth, colour_type, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits = depth * _PNG_CHANNELS[colour_type]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes if x < width and y < height]
    declared = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides)  # one filter byte per row
    # Decompress in chunks of at most 1 MiB and stop at the declared size, so that a bomb cannot fill the memory.
    inflater, num_inflated, offset = zlib.decompressobj(), 0, 8
    while offset + 8 <= len(content) and num_inflated < declared:
        length, kind = struct.unpack(">I4s", content[offset : offset + 8])
        if kind == b"IDAT":
            compressed = content[offset + 8 : offset + 8 + length]
            while compressed and num_inflated < declared:
                num_inflated += len(inflater.decompress(compressed, 1 << 20))
                compressed = inflater.unconsumed_tail
        offset += 12 + length
    while num_inflated < declared and (more := inflater.decompress(inflater.unconsumed_tail, 1 << 20)):
        num_inflated += len(more)
    if num_inflated < declared:
        name = source if isinstance(source, Path) else "image"
        raise DataError(f"{name}: not a readable image: its data end early ({num_inflated:,} of {declared:,} bytes)")
