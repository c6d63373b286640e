"""A small valid file of every image format that Pillow opens here, in several pixel types, for the fuzzer to change."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

MODES = ("RGB", "L", "RGBA", "P", "1", "I;16", "LA", "CMYK")


def write_images(folder: Path) -> list[Path]:
    """Write the files into a folder and return their paths."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    colours = Image.fromarray(pixels)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    Image.init()
    paths = []
    for form in sorted(set(Image.SAVE) & set(Image.OPEN)):
        for mode in MODES:
            path = folder / f"whole-{mode.replace(';', '')}.{form}"
            try:
                (deep if mode == "I;16" else colours.convert(mode)).save(path, form)
            except (OSError, ValueError, KeyError):  # a format that has no such pixels, or is not written here
                path.unlink(missing_ok=True)
                continue
            paths.append(path)
    for form, content in _only_read(pixels).items():
        path = folder / f"whole.{form}"
        path.write_bytes(content)
        paths.append(path)
    return paths


def _only_read(pixels: np.ndarray) -> dict[str, bytes]:
    """Return files of formats that Pillow reads and does not write."""
    height, width = pixels.shape[:2]
    planes = pixels.transpose(2, 0, 1).tobytes()
    psd = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3) + bytes(12) + bytes(2) + planes
    sun = struct.pack(">8I", 0x59A66A95, width, height, 24, pixels.size, 1, 0, 0) + pixels.tobytes()
    cards = {"SIMPLE": "T", "BITPIX": "8", "NAXIS": "2", "NAXIS1": str(width), "NAXIS2": str(height)}
    header = "".join(f"{key:<8}= {value:>20}".ljust(80) for key, value in cards.items()) + "END".ljust(80)
    fits = header.ljust(2880).encode() + pixels[..., 0].tobytes()
    rows = ",\n".join(f'"{"ab" * 4}"' for _ in range(4))
    xpm = f'/* XPM */\nstatic char * x[] = {{\n"8 4 2 1",\n"a c #ff0000",\n"b c #00ff00",\n{rows}}};\n'.encode()
    return {"PSD": psd, "SUN": sun, "FITS": fits, "XPM": xpm}
