"""The frame of a training mix is settled from the file and small official annotations, padded or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eyeswap.cli.main import app
from eyeswap.data.formats import Example, normalise_box, write_refer
from eyeswap.data.formats.boxes import format_box
from eyeswap.data.instruction import read_instructions
from eyeswap.data.official.box_frames import box_frames
from eyeswap.errors import DataError
from eyeswap.geometry import Placement

SIZE = (640, 400)
MIX = Path("download/llava-v1.5-instruct/llava_v1_5_mix665k.json")
COUNT = 14
Frame = Callable[[tuple[int, int]], Placement]
FRAMES: dict[str, Frame] = {"original": Placement.of_image, "padded-square": Placement.of_padded_square}


def pixels(n: int) -> tuple[float, float, float, float]:
    return (20.0 + 5 * n, 10.0 + 3 * n, 220.0 + 9 * n, 90.5 + 4 * n)


def text_of(n: int, frame: str, size: tuple[int, int] = SIZE) -> str:
    return format_box(FRAMES[frame](size).convert(pixels(n), "image", "canvas-unit"))


def turns(n: int, box: str) -> list[dict[str, str]]:
    """As the mix has them: every other region is given, and every other one asked for."""
    asked = (f"Please provide the bounding box coordinate of the region this sentence describes: The Dog {n}.", box)
    given = (f"Please provide a short description for this region: {box}.", f"the dog, {n}")
    question, answer = (asked, given)[n % 2]
    return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]


def write_mix(root: Path, rows: list[dict[str, Any]]) -> Path:
    path = root / MIX
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def refcoco_rows(frame: str, size: tuple[int, int] = SIZE) -> list[dict[str, Any]]:
    image = "coco/train2017/{:012d}.jpg"
    return [
        {"id": str(n), "image": image.format(n), "conversations": turns(n, text_of(n, frame, size))}
        for n in range(COUNT)
    ]


def genome_rows(frame: str) -> list[dict[str, Any]]:
    return [
        {"id": str(n), "image": f"vg/VG_100K/{n}.jpg", "conversations": turns(n, text_of(n, frame))}
        for n in range(COUNT)
    ]


def write_refcoco(root: Path, size: tuple[int, int] = SIZE) -> None:
    folder = root / "download" / "refcoco" / "refcoco"
    image = "download/refcoco/train2014/COCO_train2014_{:012d}.jpg"
    examples = [
        Example(
            f"refcoco/{n}/{n}", image.format(n), str(n), "train", "expression", f"the dog {n}",
            normalise_box(pixels(n), size), size=size, box_px=pixels(n),
        )
        for n in range(COUNT)
    ]  # fmt: skip
    write_refer(folder / "refs(unc).p", folder / "instances.json", examples)


def write_genome(root: Path, **changes: Any) -> Path:
    folder = root / "download" / "visual-genome"
    folder.mkdir(parents=True)
    rows = []
    for n in range(COUNT):
        x1, y1, x2, y2 = pixels(n)
        region = {
            "region_id": n,
            "image_id": n,
            "phrase": f"The dog {n}",
            "x": x1,
            "y": y1,
            "width": x2 - x1,
            "height": y2 - y1,
        }
        rows.append({"id": n, "regions": [region | changes]})
    (folder / "region_descriptions.json").write_text(json.dumps(rows))
    sizes = [{"image_id": n, "width": SIZE[0], "height": SIZE[1]} for n in range(COUNT)]
    (folder / "image_data.json").write_text(json.dumps(sizes))
    return folder / "region_descriptions.json"


def found(root: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    records = read_instructions(write_mix(root, rows), MIX.parent.as_posix())
    return {one.source: one for one in box_frames(records, root)}


@pytest.mark.parametrize("frame", FRAMES)
def test_the_frame_is_that_which_the_boxes_fit(tmp_path: Path, frame: str) -> None:
    write_refcoco(tmp_path)
    write_genome(tmp_path)
    parts = found(tmp_path, refcoco_rows(frame) + genome_rows(frame))
    for source in ("RefCOCO", "Visual Genome"):
        assert (parts[source].frame, parts[source].num_joined, dict(parts[source].fits)) == (
            frame,
            COUNT,
            {frame: COUNT},
        )


def test_parts_may_be_in_different_frames_and_each_is_told(tmp_path: Path) -> None:
    write_refcoco(tmp_path)
    write_genome(tmp_path)
    rows = refcoco_rows("original") + genome_rows("padded-square")
    assert {name: one.frame for name, one in found(tmp_path, rows).items()} == {
        "RefCOCO": "original",
        "Visual Genome": "padded-square",
    }


def test_square_images_and_other_words_tell_nothing(tmp_path: Path) -> None:
    write_refcoco(tmp_path, (640, 640))
    (part,) = found(tmp_path, refcoco_rows("padded-square", (640, 640))).values()
    assert (part.frame, part.num_joined) == (None, 0)
    assert "none matches an annotated box of an image that is not square" in str(part)


def test_too_few_or_disagreeing_boxes_settle_nothing(tmp_path: Path) -> None:
    write_refcoco(tmp_path)
    (few,) = found(tmp_path, refcoco_rows("original")[:9]).values()
    assert (few.frame, dict(few.fits)) == (None, {"original": 9})
    halves = refcoco_rows("original")[:7] + refcoco_rows("padded-square")[7:]
    (mixed,) = found(tmp_path, halves).values()
    assert (mixed.frame, dict(mixed.fits)) == (None, {"original": 7, "padded-square": 7})
    assert (
        "14 boxes of RefCOCO: frame undecided (of 14 that distinguish frames, 7 fit original, 7 fit padded-square)"
        in str(mixed)
    )


def test_a_broken_annotation_is_named_with_file_and_row(tmp_path: Path) -> None:
    path = write_genome(tmp_path, x="left")
    with pytest.raises(DataError, match=rf"{path}: row 1: region: field 'x' must be a list of four numbers"):
        found(tmp_path, genome_rows("original"))


def test_data_check_says_the_frame_and_how_to_tell_a_study(tmp_path: Path) -> None:
    write_refcoco(tmp_path)
    path = write_mix(tmp_path, refcoco_rows("padded-square") + genome_rows("padded-square"))
    shown = CliRunner().invoke(
        app, ["data", "check", "llava-v1.5-instruct", "--root", str(tmp_path)], env={"COLUMNS": "200"}
    )
    assert (
        "14 boxes of RefCOCO: frame padded-square (of 14 that distinguish frames, 14 fit padded-square)" in shown.stdout
    )
    assert (
        "14 boxes of Visual Genome: frame unknown, download/visual-genome/region_descriptions.json is not on disk"
        in shown.stdout
    )
    assert "`box_frame: padded-square` in recipe.data" in shown.stdout
    row = json.loads(CliRunner().invoke(app, ["data", "check", str(path), "--json"]).stdout)[0]  # by its path alone
    assert row["box_frame"] == "padded-square"
    assert row["boxes"][0]["fits"] == {"padded-square": 14}


def test_data_check_names_odd_records(tmp_path: Path) -> None:
    talk = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(("q", "a", "<image>\nq", "a"))]
    path = write_mix(tmp_path, [{"id": "b", "conversations": talk}] * 5)
    shown = CliRunner().invoke(app, ["data", "check", str(path)], env={"COLUMNS": "300"}).stdout
    assert f"{path}: row 3 (id 'b'): turn 3 contains <image>, but the record has no image" in shown
    assert "row 4" not in shown
    assert "and 2 more such records" in shown
