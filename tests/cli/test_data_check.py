"""`eyeswap data check` of instruction data: every record and image before a run, in words, as JSON and as a list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app

FOLDERS = ("coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K", "vg/VG_100K_2")


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)], env={"COLUMNS": "160"})


def conversation(image: str | None, number: int) -> dict[str, Any]:
    first = "<image>\nWhat is it?" if image else "Hello?"
    turns = [{"from": "human", "value": first}, {"from": "gpt", "value": "A cat"}]
    return {"id": f"{number:06d}", **({"image": image} if image else {}), "conversations": turns}


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    """A root with the published mix in small: two images in each official folder, and two conversations in text."""
    folder = tmp_path / "download" / "llava-v1.5-instruct"
    images = [f"{name}/{number}.jpg" for name in FOLDERS for number in (1, 2)]
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / image)
    rows = [conversation(image, number) for number, image in enumerate([*images, None, None])]
    (folder / "llava_v1_5_mix665k.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_published_set_is_compared_with_what_was_published(mix: Path) -> None:
    shown = check("llava-v1.5-instruct", "--root", mix)
    assert shown.exit_code == 1  # fourteen records are not the published ones
    told = shown.stdout
    assert "licence: texts CC BY 4.0" in told
    assert "found    download/llava-v1.5-instruct/vg/VG_100K_2" in told
    assert "14 records (12 with an image, 2 text only), 14 turns" in told
    assert "! 2 records of coco, published 364,100" in told
    assert "! 4 records of vg, published 86,417" in told
    assert "! 2 records without image, published 40,688" in told
    assert "missing" not in told


def test_missing_and_broken_images_are_told_by_folder_with_what_to_do(mix: Path, tmp_path: Path) -> None:
    folder = mix / "download" / "llava-v1.5-instruct"
    (folder / "ocr_vqa" / "images" / "2.jpg").unlink()
    (folder / "gqa" / "images" / "1.jpg").write_text("<html>")
    listed = tmp_path / "lists" / "missing.txt"
    shown = check("llava-v1.5-instruct", "--root", mix, "--check-images", "--out", listed)
    assert shown.exit_code == 1
    image = "download/llava-v1.5-instruct/ocr_vqa/images"
    assert f"! 1 of 2 images missing in {image}: {image}/2.jpg" in shown.stdout
    assert "! 1 of 2 images undecodable in download/llava-v1.5-instruct/gqa/images" in shown.stdout
    assert "`eyeswap data fetch llava-v1.5-instruct`" in shown.stdout
    assert "set `skip_missing: true` in recipe.data to leave out the 2 records with these images" in shown.stdout
    lines = [line.split("\t") for line in listed.read_text().splitlines()]
    assert [line[0].rpartition("images/")[2] for line in lines] == ["1.jpg", "2.jpg"]
    assert "not a readable image" in lines[0][1]
    assert lines[1][1] == "no such file"
    (row,) = json.loads(check("llava-v1.5-instruct", "--root", mix, "--json").stdout)
    assert [source["missing"] for source in row["sources"]] == [0, 0, 1, 0, 0, 0]
    assert row["records_to_skip"] == 1
    assert not row["decoded"]


def test_turned_transparent_and_16_bit_images_are_counted(mix: Path) -> None:
    folder = mix / "download" / "llava-v1.5-instruct"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(folder / "gqa" / "images" / "1.jpg", exif=exif)
    Image.new("RGBA", (8, 6)).save(folder / "gqa" / "images" / "2.jpg", "PNG")
    Image.new("I;16", (8, 6)).save(folder / "vg" / "VG_100K" / "1.jpg", "PNG")
    arguments = ("llava-v1.5-instruct", "--root", mix)
    assert (
        "images read as stored: 1 with an EXIF orientation (not turned upright), 1 with transparency (dropped), "
        "1 of 16 bits (scaled to 8)"
    ) in " ".join(check(*arguments, "--check-images").stdout.split())
    (row,) = json.loads(check(*arguments, "--check-images", "--json").stdout)
    assert row["image_traits"] == {"turned": 1, "transparent": 1, "16-bit": 1}
    assert "read as stored" not in check(*arguments).stdout


def test_what_is_not_there_is_named_with_its_address(tmp_path: Path) -> None:
    shown = check("llava-v1.5-instruct", "--root", tmp_path)
    assert shown.exit_code == 1
    assert "<- http://images.cocodataset.org/zips/train2017.zip, 18 GB" in shown.stdout
    assert "usp=sharing; run the download script at the address (Google Drive)" in shown.stdout
    assert "! not on disk: download/llava-v1.5-instruct/llava_v1_5_mix665k.json" in shown.stdout


def test_a_broken_record_of_a_published_set_is_told_with_row_id_and_field(mix: Path) -> None:
    path = mix / "download" / "llava-v1.5-instruct" / "llava_v1_5_mix665k.json"
    path.write_text(path.read_text().replace('"from": "gpt"', '"from": "bot"', 1))
    shown = check("llava-v1.5-instruct", "--root", mix)
    assert f"! {path}: row 1 (id '000000'): turn 2: field 'from' must be 'gpt' here" in shown.stdout


def test_a_file_of_ones_own_is_complete_or_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    path = tmp_path / "own.json"
    path.write_text(json.dumps([conversation("a.png", 1), conversation(None, 2)]))
    shown = check(path, "--check-images")
    assert shown.exit_code == 0
    assert "2 records (1 with an image, 1 text only), 2 turns" in shown.stdout
    assert "complete\n" in shown.stdout
    assert check(path, "--root", tmp_path / "elsewhere").exit_code == 1
    path.write_text(json.dumps([conversation("../a.png", 1)]))
    refused = check(path)
    assert refused.exit_code == 2
    assert refused.stderr == f"error: {path}: row 1 (id '000001'): image name '../a.png' must stay inside .\n"


def test_the_list_of_images_is_of_one_file(tmp_path: Path) -> None:
    shown = check("all", "--root", tmp_path, "--out", tmp_path / "list.txt")
    assert shown.exit_code == 2
    assert "error: --out lists the images of one instruction file" in shown.stderr
    assert not (tmp_path / "list.txt").exists()


def test_training_data_need_no_preparation(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["data", "prepare", "llava-v1.5-instruct", "--root", str(tmp_path)])
    assert shown.exit_code == 2
    assert "check them with `eyeswap data check llava-v1.5-instruct`" in shown.stderr
