"""Images of instruction data are looked for and decoded before they are needed."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from PIL import Image

from eyeswap.data import preflight as images
from eyeswap.data.instruction import Instruction
from eyeswap.data.preflight import decode_images, inspect_images, missing_images
from eyeswap.errors import EnvironmentProblem

COCO, VG = "mix/coco/train2017", "mix/vg/VG_100K"


def record(number: int, image: str | None, turns: int = 1) -> Instruction:
    return Instruction(str(number), image, ("<image>\nq", "a") + ("q", "a") * (turns - 1))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (f"{COCO}/1.jpg", f"{COCO}/2.jpg", f"{VG}/1.jpg", f"{VG}/cut.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 32), 50).save(tmp_path / name)
    whole = (tmp_path / VG / "cut.jpg").read_bytes()
    (tmp_path / VG / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / VG / "page.jpg").write_text("<html>not found</html>")
    return tmp_path


RECORDS = [
    record(1, f"{COCO}/1.jpg"),
    record(2, f"{COCO}/1.jpg", turns=3),
    record(3, f"{COCO}/gone.jpg"),
    record(4, None, turns=2),
    record(5, f"{VG}/cut.jpg"),
    record(6, f"{VG}/page.jpg"),
    record(7, f"{VG}/1.jpg"),
    record(8, "mix/nowhere/1.jpg"),
]


def test_usable_records_and_the_reasons_of_the_others_are_told(root: Path) -> None:
    found = inspect_images(RECORDS, root)
    assert [one.record_id for one in found.usable] == ["1", "2", "4", "7"]
    assert found.num_skipped == 4
    reasons = found.unusable_images
    assert list(reasons) == [f"{COCO}/gone.jpg", f"{VG}/cut.jpg", f"{VG}/page.jpg", "mix/nowhere/1.jpg"]
    assert reasons[f"{COCO}/gone.jpg"] == reasons["mix/nowhere/1.jpg"] == "no such file"
    assert "truncated" in reasons[f"{VG}/cut.jpg"]
    assert "not a readable image" in reasons[f"{VG}/page.jpg"]
    assert (found.num_records, found.num_text_only, found.num_turns) == (8, 1, 11)


def test_an_image_that_lies_there_under_another_ending_is_told(root: Path) -> None:
    (root / COCO / "gone.gif").write_bytes(b"GIF89a")
    found = inspect_images(RECORDS, root, decode=False)
    assert found.unusable_images[f"{COCO}/gone.jpg"] == "no such file, but gone.gif: convert it"


def test_a_link_to_itself_is_missing_and_hides_nothing(root: Path) -> None:
    (root / COCO / "gone.jpg").symlink_to("gone.jpg")
    assert missing_images(root, [f"{COCO}/1.jpg", f"{COCO}/gone.jpg"]) == [f"{COCO}/gone.jpg"]


def test_every_folder_says_what_is_missing_and_what_is_broken(root: Path) -> None:
    coco, vg, nowhere = inspect_images(RECORDS, root).sources
    assert (coco.folder, coco.num_records, coco.num_images) == (COCO, 3, 2)
    assert coco.missing == (f"{COCO}/gone.jpg",)
    assert coco.undecodable == ()
    assert vg.undecodable == (f"{VG}/cut.jpg", f"{VG}/page.jpg")
    assert nowhere.missing == ("mix/nowhere/1.jpg",)


def test_without_decoding_only_missing_images_are_found(root: Path) -> None:
    found = inspect_images(RECORDS, root, decode=False)
    assert list(found.unusable_images) == [f"{COCO}/gone.jpg", "mix/nowhere/1.jpg"]
    assert not found.decoded


def test_worker_processes_find_the_same(root: Path) -> None:
    names = [f"{COCO}/many-{number}.png" for number in range(210)]
    for number, name in enumerate(names):
        Image.new("RGB", (4, 4 + number % 2)).save(root / name)
    (root / names[150]).write_bytes(b"no image")
    found = decode_images(root, dict.fromkeys(names, (4, 4)), workers=2)
    assert list(found.bad) == [name for number, name in enumerate(names) if number % 2 or number == 150]
    assert found.bad[names[1]] == "is 4x5, stated 4x4"
    assert "not a readable image" in found.bad[names[150]]


def test_a_process_that_is_ended_from_outside_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*arguments: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(images, "_looks", ended)
    with pytest.raises(EnvironmentProblem, match="was killed"):
        inspect_images(RECORDS, root)


def test_images_that_other_tools_read_differently_are_counted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (4, 2)).save(tmp_path / "clear.png")
    Image.new("P", (4, 2)).save(tmp_path / "clear.gif", transparency=0)
    Image.new("I;16", (4, 2), 300).save(tmp_path / "deep.tiff")
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (4, 2)).save(tmp_path / "plain.png")
    names = ["turned.jpg", "clear.png", "clear.gif", "deep.tiff", "broken.png", "plain.png"]
    decoded = decode_images(tmp_path, dict.fromkeys(names))
    assert decoded.traits == {"turned": 1, "transparent": 2, "16-bit": 1}
    assert list(decoded.bad) == ["broken.png"]
