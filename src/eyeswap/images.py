"""How image files become RGB pixels, opened as if hostile.

There are two doors, and every image goes through one of them:

- `open_image` reads the files of data sets as they are stored, as the published pipelines do: no turning by EXIF
  orientation, transparency dropped.
- `open_picture` reads what a person brings, a path, an address, a PIL image or an array: upright whatever way it comes
  in, transparent parts on white.

Both scale 16-bit grey to 8 bits (the published pipelines clip it to white) and refuse files that end early.
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
from typing import IO, Any

from PIL import ExifTags, Image, ImageOps

from eyeswap.errors import DataError, ShapeError

MAX_IMAGE_PIXELS = 120_000_000
MAX_ADDRESS_BYTES = 100_000_000
TIMEOUT_S = 20.0
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type, PNG specification section 11.2.2
# First column and row, and their steps, of the seven passes of an interlaced PNG (section 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def open_image(source: Path | IO[bytes]) -> Image.Image:
    """Read an image file of a data set as RGB, as it is stored.

    Raises:
        DataError: if it is missing, ends early, is no image, or claims more than ``MAX_IMAGE_PIXELS`` pixels.
    """
    with _opened(source) as image:
        return _rgb(image)


def open_picture(source: Any) -> Image.Image:
    """Read a person's picture as RGB: upright by its EXIF orientation, transparent parts on white.

    Args:
        source: a path, an ``http(s):`` or ``data:`` address, a PIL image, or an array ``[H, W]``, ``[H, W, 3]`` or
            ``[H, W, 4]`` of uint8 or uint16.

    Raises:
        DataError: if a file or address cannot be read, ends early, is no image, or has too many pixels.
        ShapeError: if it is something else, or an array of another shape or type.
    """
    if isinstance(source, Image.Image):
        return _upright_on_white(source, "the picture")
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
        with _quiet(), Image.open(path) as image:
            return image.size
    except Exception:  # plug-ins raise errors of their own
        return None


def traits(path: Path) -> tuple[str, ...]:
    """Return what `open_picture` would read otherwise than `open_image`, or other tools otherwise than both.

    Returns:
        Some of ``turned`` (an EXIF orientation), ``transparent`` and ``16-bit``; nothing for a file that is no image.
    """
    try:
        with _quiet(), Image.open(path) as image:
            found = {
                "turned": image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1),
                "transparent": image.has_transparency_data,
                "16-bit": image.mode.startswith("I"),
            }
    except Exception:  # plug-ins raise errors of their own
        return ()
    return tuple(name for name, holds in found.items() if holds)


@contextmanager
def _opened(source: Path | IO[bytes], name: str | None = None) -> Iterator[Image.Image]:
    """Yield a decoded image; every error of Pillow and its plug-ins is one line about the file."""
    name = name or str(source)
    try:
        with _quiet(), Image.open(source) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise DataError(f"{name}: {image.width}x{image.height} pixels is over the limit")
            image.load()
            if image.format == "PNG" and _may_end_early(image):
                _refuse_cut_png(source)
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name}: no such image") from None
    except Exception as error:  # plug-ins raise errors of their own, and a hostile file can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: not a readable image: {reason}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB; grey of more than 8 bits is scaled, not clipped.

    Pillow's own conversion clips such grey at 255, which turns nearly all of it white. 16-bit values are divided by
    257; floating-point values, which have no range of their own, are stretched between their least and greatest.
    """
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it holds values that are not finite numbers")
    if image.mode == "I" and low >= 0 and high <= 255:  # 8-bit grey held in wide numbers
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
        raise DataError(f"{name}: not a readable image: {' '.join(str(error).split())}") from None


def _from_array(array: Any) -> Image.Image:
    """Return an array as a PIL image."""
    import numpy as np

    values = np.asarray(array)
    colours = values.ndim == 3 and values.shape[2] in (3, 4)
    if values.dtype not in (np.uint8, np.uint16) or not (values.ndim == 2 or colours):
        kind = f"{values.dtype} {list(values.shape)}" if values.ndim else type(array).__name__
        raise ShapeError(
            f"an image is a PIL image, a path, or a uint8 or uint16 array [H, W], [H, W, 3] or [H, W, 4], not {kind}"
        )
    if 0 in values.shape:
        raise ShapeError(f"an image has no side of 0 pixels: {list(values.shape)}")
    if values.dtype == np.uint16:
        values = np.round(values / 257).astype(np.uint8)
    return Image.fromarray(values)


def _content_of_address(address: str, shown: str) -> bytes:
    """Return the bytes behind a ``data:`` or ``http(s):`` address."""
    if address.startswith("data:"):
        head, comma, content = address.partition(",")
        if not comma or not head.endswith(";base64"):
            raise DataError(f"{shown}: not a data address of the form data:image/png;base64,...")
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
        raise DataError(f"{shown}: cannot be fetched: {' '.join(str(reason).split())}") from None
    if len(received) > MAX_ADDRESS_BYTES:
        raise DataError(f"{shown}: larger than {MAX_ADDRESS_BYTES:,} bytes")
    return received


def _may_end_early(image: Image.Image) -> bool:
    """Tell whether a decoded PNG ends in black: rows that never arrived stay black, without an error of Pillow's."""
    last_rows = image.crop((0, max(0, image.height - 2), image.width, image.height))
    return any(
        not last_rows.crop((0, row, image.width, row + 1)).getbbox(alpha_only=False) for row in range(last_rows.height)
    )


def _refuse_cut_png(source: Path | IO[bytes]) -> None:
    """Check that a PNG's compressed data hold all rows that its header promises.

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
    promised = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides)  # one filter byte a row
    unpack, held, place = zlib.decompressobj(), 0, 8
    while place + 8 <= len(content) and held < promised:
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        if kind == b"IDAT":
            rest = content[place + 8 : place + 8 + length]
            while rest and held < promised:
                held += len(unpack.decompress(rest, 1 << 20))
                rest = unpack.unconsumed_tail
        place += 12 + length
    while held < promised and (more := unpack.decompress(unpack.unconsumed_tail, 1 << 20)):
        held += len(more)
    if held < promised:
        name = source if isinstance(source, Path) else "image"
        raise DataError(f"{name}: not a readable image: its data end early ({held:,} of {promised:,} bytes)")
