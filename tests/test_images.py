"""Images of every kind become the right pixels, and files that are no whole image are refused in one line."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyeswap import images
from eyeswap.errors import DataError, ShapeError
from eyeswap.images import open_image, open_picture, traits

ORIENTATION = 0x0112
RAMP = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(8, 0)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[0, :, 0]


def turned_photo() -> Image.Image:
    photo = Image.new("RGB", (80, 40), (200, 30, 30))
    photo.paste((30, 30, 200), (0, 0, 20, 20))
    return photo


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored lying on its side: turn by 90 degrees, clockwise
    turned_photo().save(tmp_path / "turned.png", exif=exif)
    return tmp_path / "turned.png"


def ways_in(path: Path) -> dict[str, object]:
    address = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    with Image.open(path) as image:
        image.load()
    return {"path": path, "text": str(path), "address": address, "image": image}


@pytest.mark.parametrize("way", ["path", "text", "address", "image"])
def test_a_persons_picture_is_upright_whatever_way_it_comes_in(turned: Path, way: str):
    picture = open_picture(ways_in(turned)[way])
    assert picture.size == (40, 80)
    assert picture.getpixel((39, 0)) == (30, 30, 200)


def test_a_file_of_a_data_set_is_read_as_stored(turned: Path):
    assert open_image(turned).size == (80, 40)


@pytest.mark.parametrize("kind", ["png", "tiff", "mode I", "array", "colour array", "mode F"])
def test_sixteen_bits_keep_their_levels(tmp_path: Path, kind: str):
    if kind in ("png", "tiff"):
        Image.fromarray(RAMP).save(tmp_path / f"ramp.{kind}")
        sources = [open_image(tmp_path / f"ramp.{kind}"), open_picture(tmp_path / f"ramp.{kind}")]
    else:
        source = {
            "mode I": lambda: Image.fromarray(RAMP.astype(np.int32)),
            "mode F": lambda: Image.fromarray((RAMP / 65535).astype(np.float32)),
            "array": lambda: RAMP,
            "colour array": lambda: np.stack([RAMP] * 3, -1),
        }[kind]()
        sources = [open_picture(source)]
    for image in sources:
        assert levels(image).tolist() == list(range(256))


def test_eight_bit_grey_held_in_wide_numbers_is_not_stretched():
    assert levels(open_picture(Image.new("I", (4, 4), 100))).tolist() == [100] * 4


def test_a_picture_of_values_that_are_no_numbers_is_refused():
    with pytest.raises(DataError, match="not finite"):
        open_picture(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_persons_picture_is_laid_on_white(tmp_path: Path, mode: str):
    logo = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    logo.paste((0, 0, 0, 255), (4, 4, 12, 12))
    logo.convert(mode).save(tmp_path / "logo.png")
    picture = open_picture(tmp_path / "logo.png")
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((8, 8)) == (0, 0, 0)
    assert open_image(tmp_path / "logo.png").getpixel((8, 8)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "TGA"])
def test_a_file_that_ends_early_is_broken(tmp_path: Path, kind: str):
    noise = np.random.default_rng(0).integers(1, 255, (60, 80, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, kind)
    (tmp_path / "whole").write_bytes(whole.getvalue())
    assert open_image(tmp_path / "whole").size == (80, 60)
    for share in (0.1, 0.5, 0.97):
        (tmp_path / "cut").write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
        with pytest.raises(DataError, match="cut: not a readable image"):
            open_image(tmp_path / "cut")


def png(rows: int, promised: int, interlaced: int = 0) -> bytes:
    """Write a PNG of grey rows by hand, whose compressed data may hold fewer rows than its header says."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 8, promised, 8, 0, 0, 0, interlaced)
    data = zlib.compress(bytes(9 * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_png_whose_data_end_before_its_header_says_is_broken(tmp_path: Path):
    (tmp_path / "whole.png").write_bytes(png(rows=40, promised=40))
    (tmp_path / "cut.png").write_bytes(png(rows=3, promised=40))
    (tmp_path / "woven.png").write_bytes(png(rows=3, promised=40, interlaced=1))
    assert open_image(tmp_path / "whole.png").size == (8, 40)  # black to its end, and whole
    for name in ("cut.png", "woven.png"):
        with pytest.raises(DataError, match=f"{name}: not a readable image"):
            open_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (37, 29)])
def test_a_black_png_of_any_kind_is_whole(tmp_path: Path, mode: str, size: tuple[int, int]):
    Image.new(mode, size).save(tmp_path / "black.png")
    assert open_image(tmp_path / "black.png").size == size


def test_errors_of_an_image_plugin_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    turned_photo().save(tmp_path / "photo.png")

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("decoder\nfailed")

    monkeypatch.setattr(images.Image.Image, "load", fail)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(DataError, match=r"photo\.png: not a readable image: decoder failed"):
        open_image(tmp_path / "photo.png")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4), np.uint8), object()]
)
def test_arrays_that_are_no_images_are_refused(array: object):
    with pytest.raises(ShapeError, match="an image"):
        open_picture(array)


@pytest.mark.parametrize("address", ["data:image/png;base64,@@@", "data:image/png", "http://127.0.0.1:9/none.png"])
def test_addresses_that_lead_nowhere_are_refused(address: str):
    with pytest.raises(DataError, match=address[:20]):
        open_picture(address)


def test_postscript_is_refused_as_it_would_be_run(tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / "drawing.png", "EPS")
    assert traits(tmp_path / "drawing.png") == ()
    for read in (open_image, open_picture):
        with pytest.raises(DataError, match="not a readable image"):
            read(tmp_path / "drawing.png")
