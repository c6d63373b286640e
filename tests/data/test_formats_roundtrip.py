"""Every writer's bytes are what the matching reader turns back into the same examples."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eyeswap.data.formats import (
    Example,
    normalise_box,
    read_gqa,
    read_ocid,
    read_pope,
    read_refer,
    read_tallyqa,
    read_textvqa,
    read_vizwiz,
    read_vqa,
    write_gqa,
    write_ocid,
    write_pope,
    write_refer,
    write_tallyqa,
    write_textvqa,
    write_vizwiz,
    write_vqa,
)
from eyeswap.errors import DataError

TEN = ("two",) * 6 + ("2", "three", "Ünï", 'a "quoted" one')


def vqa(number, kind="number"):
    details = {"answer_type": "number", "question_type": "how many"}
    image = f"im/COCO_val2014_{number:012d}.jpg"
    return Example(str(number), image, str(number), "val2014", kind, f"How many {number}?", TEN, details=details)


def gqa(number, kind="query"):
    program = [["select", "dog"], ["query", "name"]]
    details = {"structural": "query", "semantic": "obj", "program": program, "global_group": None, "entailed": ["07"]}
    image = f"im/n{number}.jpg"
    return Example(f"0{number}", image, f"n{number}", "testdev", kind, "What?", "t-shirt", details=details)


def vizwiz(number, kind="other"):
    subset = ("answerable", "unanswerable")[number % 2]
    details = {"answerable": 1 - number % 2, "answer_type": "other"}
    image = f"im/VizWiz_val_{number:08d}.jpg"
    return Example(str(number), image, f"VizWiz_val_{number:08d}", subset, kind, "What?", TEN, details=details)


def textvqa(number, kind="text"):
    details = {"ocr": "STOP, 42" if number else ""}
    return Example(str(number), f"im/a{number}.jpg", f"a{number}", "val", kind, "What?", TEN, details=details)


def pope(number, kind="existence"):
    split, label = ("adversarial", "popular", "random")[number % 3], ("yes", "no")[number % 2]
    name = f"COCO_val2014_{number:012d}"
    return Example(f"{split}/{number}", f"im/{name}.jpg", name, split, kind, "Is there a dog?", label)


def tallyqa(number, kind="count"):
    subset = ("simple", "complex")[number % 2]
    image = f"im/VG_100K/{number}.jpg"
    return Example(str(number), image, str(number), subset, kind, "How many dogs?", number)


def refer(number, kind="expression"):
    size = (64, 48)
    return Example(
        f"refcoco/{number // 2}/{number}",
        f"im/COCO_train2014_{number // 2:012d}.jpg",
        str(number // 2),
        "val",
        kind,
        "the red nine",
        normalise_box(_box(number), size),
        size=size,
        box_px=_box(number),
        details={"category": "digit", "ann_id": 100 + number // 2},
    )


def _box(number):
    left = number // 2
    return (left, 2.5, left + 10, 40.0)


def ocid(number, kind="expression"):
    size = (640, 480) if number % 2 else (64, 48)
    return Example(
        str(number),
        f"im/ARID10/scene{number}.png",
        f"ARID10/scene{number}.png",
        ("minimum", "medium", "maximum")[number % 3],
        kind,
        "the red mug",
        normalise_box(_box(number), size),
        size=size,
        box_px=_box(number),
        details={"take_id": (3, 11, 20)[number % 3], "class": "mug"},
    )


@dataclass
class Format:
    make: Callable[..., Example]
    write: Callable[[Path, list[Example]], None]
    read: Callable[[Path], list[Example]]
    name: str  # the file that holds the truth


FORMATS = {
    "vqa": Format(
        vqa,
        lambda folder, rows: write_vqa(folder / "q.json", folder / "a.json", rows),
        lambda folder: read_vqa(folder / "q.json", folder / "a.json", "im"),
        "a.json",
    ),
    "gqa": Format(
        gqa,
        lambda folder, rows: write_gqa(folder / "q.json", rows),
        lambda folder: read_gqa(folder / "q.json", "im"),
        "q.json",
    ),
    "vizwiz": Format(
        vizwiz,
        lambda folder, rows: write_vizwiz(folder / "val.json", rows),
        lambda folder: read_vizwiz(folder / "val.json", "im"),
        "val.json",
    ),
    "textvqa": Format(
        textvqa,
        lambda folder, rows: write_textvqa(folder / "t.json", folder / "ocr.jsonl", rows),
        lambda folder: read_textvqa(folder / "t.json", folder / "ocr.jsonl", "im"),
        "t.json",
    ),
    "pope": Format(pope, write_pope, lambda folder: read_pope(folder, "im"), "coco_pope_random.json"),
    "tallyqa": Format(
        tallyqa,
        lambda folder, rows: write_tallyqa(folder / "test.json", "im", rows),
        lambda folder: read_tallyqa(folder / "test.json", "im"),
        "test.json",
    ),
    "refer": Format(
        refer,
        lambda folder, rows: write_refer(folder / "refs(unc).p", folder / "instances.json", rows),
        lambda folder: read_refer(folder / "refs(unc).p", folder / "instances.json", "im", "refcoco"),
        "instances.json",
    ),
    "ocid": Format(
        ocid,
        lambda folder, rows: write_ocid(folder / "val.json", "im", rows),
        lambda folder: read_ocid(folder / "val.json", "im"),
        "val.json",
    ),
}
each_format = pytest.mark.parametrize("name", FORMATS)


@each_format
def test_reading_gives_back_what_was_written(name, tmp_path):
    form = FORMATS[name]
    examples = [form.make(number) for number in range(6)]
    form.write(tmp_path, examples)
    found = form.read(tmp_path)
    assert sorted(found, key=lambda row: row.example_id) == sorted(examples, key=lambda row: row.example_id)


@each_format
def test_a_kind_of_our_own_survives(name, tmp_path):
    form = FORMATS[name]
    form.write(tmp_path, [form.make(number, "position") for number in range(6)])
    assert {row.kind for row in form.read(tmp_path)} == {"position"}


@each_format
def test_equal_examples_give_equal_bytes(name, tmp_path):
    form = FORMATS[name]
    for folder in ("one", "two"):
        form.write(tmp_path / folder, [form.make(number) for number in range(6)])
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("one", "two")
    )
    assert first == second


@each_format
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(DataError, match=r"no such file"):
        FORMATS[name].read(tmp_path)


@each_format
def test_a_broken_file_is_named(name, tmp_path):
    form = FORMATS[name]
    form.write(tmp_path, [form.make(number) for number in range(6)])
    path = tmp_path / form.name
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=form.name):
        form.read(tmp_path)


def _spots(value, path=()):
    """All places inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _spots(inner, (*path, key))


def read_or_refuse(form, folder):
    """Return the examples and the message of a refusal, one of them empty; any other error is a failure."""
    try:
        return form.read(folder), ""
    except DataError as error:
        return [], str(error)


JUNK = st.sampled_from([None, -1, 1.5, True, "", "x", [], {}, [[]], float("nan"), 10**30, "../../x", [1, 2, 3, 4]])


@each_format
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_junk_anywhere_is_refused_or_read_but_never_crashes(name, tmp_path, data):
    form = FORMATS[name]
    form.write(tmp_path, [form.make(number) for number in range(6)])
    path = tmp_path / form.name
    lines = name == "pope"
    content = [json.loads(line) for line in path.read_text().splitlines()] if lines else json.loads(path.read_text())
    *way, last = data.draw(st.sampled_from([spot for spot in _spots(content) if spot]))
    inner = content
    for key in way:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[last] = data.draw(JUNK)
    else:
        del inner[last]
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))
    examples, refusal = read_or_refuse(form, tmp_path)
    assert all(example.image.startswith("im/") and ".." not in example.image for example in examples)
    assert "\n" not in refusal
    assert str(tmp_path) in refusal or not refusal


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_junk_in_the_refer_pickle_never_crashes(tmp_path, data):
    form = FORMATS["refer"]
    form.write(tmp_path, [form.make(number) for number in range(6)])
    path = tmp_path / "refs(unc).p"
    content = pickle.loads(path.read_bytes())
    *way, last = data.draw(st.sampled_from([spot for spot in _spots(content) if spot]))
    inner = content
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(JUNK)
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert "\n" not in read_or_refuse(form, tmp_path)[1]
