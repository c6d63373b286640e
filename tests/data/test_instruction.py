from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from eyeswap.data.instruction import Instruction, read_instructions, write_instructions
from eyeswap.errors import DataError
from eyeswap.progress import progress


def turns(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def read(tmp_path, *rows):
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(rows))
    return read_instructions(path, "coco")


def test_records_with_and_without_image_are_read(tmp_path):
    found = read(
        tmp_path,
        {
            "id": "000000033471",
            "image": "train2017/33471.jpg",
            "conversations": turns("<image>\nWhat?", "A bus"),
        },
        {"id": 7, "model": "", "conversations": turns("Hi", "Hello", "Bye", "Bye")},
    )
    assert found == [
        Instruction("000000033471", "coco/train2017/33471.jpg", ("<image>\nWhat?", "A bus")),
        Instruction("7", None, ("Hi", "Hello", "Bye", "Bye")),
    ]


GOOD = {"id": "a", "conversations": turns("q", "a")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": turns("q")}, "needs a question and an answer"),
        ({"conversations": []}, "needs a question and an answer"),
        ({"conversations": turns("q", "a")[::-1]}, "turn 1: field 'from' must be 'human' here"),
        (
            {"conversations": [*turns("q", "a"), *turns("q")[:1], *turns("q")]},
            "turn 4: field 'from' must be 'gpt'",
        ),
        ({"conversations": turns("q", None)}, "turn 2: field 'value' must be text"),
        ({"conversations": "q"}, "field 'conversations' must be a list"),
        ({"conversations": turns("<image>\nq", "a")}, "contains <image> but field 'image' is missing"),
        ({"conversations": turns("q\n<image>", "a")}, "contains <image> but field 'image' is missing"),
        ({"image": "x.jpg"}, "field 'image' is given but no question contains <image>"),
        ({"image": "x.jpg", "conversations": turns("q", "<image>")}, "no question contains <image>"),
        (
            {"image": "x.jpg", "conversations": turns("<image>\n<image>\nq", "a")},
            r"<image> occurs 2 times \(turns 1\) for the one image of field 'image'; keep the first",
        ),
        (
            {"image": "x.jpg", "conversations": turns("<image>\nq", "a", "and <image> here?", "b", "<image>", "c")},
            r"<image> occurs 3 times \(turns 1, 3, 5\)",
        ),
        ({"video": "v.mp4"}, "field 'video': only images and text are supported"),
        ({"video": "v.mp4", "conversations": turns("<video>\nq", "a")}, "field 'video'"),
        ({"image": "/x.jpg"}, "must stay inside coco"),
        ({"image": ["x.jpg"]}, "field 'image' must be text, found list"),
        ({"image": ""}, "must stay inside coco"),
        ({"conversations": None}, "field 'conversations' must be a list, found nothing"),
        ({"conversations": [*turns("q"), "a"]}, "turn 2: expected an object, found str"),
        ({"conversations": turns("q", "half \ud800")}, "turn 2: field 'value' contains half a character"),
        ({"image": "../x.jpg"}, "must stay inside coco"),
        ({"image": 5}, "field 'image' must be text"),
        ({"id": None}, "field 'id' must be an id"),
    ],
)
def test_a_bad_record_is_refused_with_its_row(tmp_path, change, message):
    with pytest.raises(DataError, match=r"mix.json: row 2( \(id 'a'\))?: .*" + message):
        read(tmp_path, GOOD, GOOD | change)


def test_a_file_that_is_no_list_is_refused(tmp_path):
    (tmp_path / "mix.json").write_text("{}")
    with pytest.raises(DataError, match=r"mix.json: expected a JSON list of records, but it begins with '{'"):
        read_instructions(tmp_path / "mix.json")


def test_a_list_of_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"mix.json: has no record"):
        read(tmp_path)


def test_ids_may_repeat_and_answers_be_empty_as_in_the_published_mix(tmp_path):
    assert read(tmp_path, GOOD, GOOD | {"conversations": turns("q", "")}) == [
        Instruction("a", None, ("q", "a")),
        Instruction("a", None, ("q", "")),
    ]


def test_a_text_that_quotes_the_placeholder_is_no_image(tmp_path):
    quoting = GOOD | {"conversations": turns("why is <image> not valid in my feed?", "add <image>")}
    assert read(tmp_path, quoting)[0].image is None


def test_a_later_question_that_shows_an_image_where_there_is_none_is_told_with_its_row(tmp_path):
    path, lines = tmp_path / "mix.json", []
    odd = {"id": "b", "conversations": turns("q", "a", "<image>\nand this?", "a", "why <image> here?", "a")}
    path.write_text(json.dumps([GOOD, odd, GOOD | {"video": None}]))
    assert len(read_instructions(path, warn=lines.append)) == 3
    assert lines == [f"{path}: row 2 (id 'b'): turn 3 contains <image>, but the record has no image"]


def test_the_one_placeholder_may_stand_in_a_later_question(tmp_path):
    late = {"id": "a", "image": "x.jpg", "conversations": turns("hi", "hello", "<image>\nwhat?", "a bus")}
    assert read(tmp_path, late)[0].image == "coco/x.jpg"


def test_a_long_file_is_counted_while_it_is_read(tmp_path):
    read(tmp_path, *[GOOD | {"conversations": turns("q", "a" * 1_000_000)}] * 3)
    console = Console(file=io.StringIO())
    with progress(console) as board:
        read_instructions(tmp_path / "mix.json", board=board)
    assert "read mix.json (MiB): 2/2" in console.file.getvalue()


@given(
    st.lists(
        st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=9), min_size=2, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_writing_and_reading_gives_the_same(tmp_path_factory, conversations):
    path = tmp_path_factory.mktemp("mix") / "mix.json"
    records = [
        Instruction(str(n), f"a/{n}.jpg", (f"<image>\n{texts[0]}", *texts[1:])) for n, texts in enumerate(conversations)
    ]
    write_instructions(path, records)
    assert read_instructions(path) == records


def test_an_unanswered_conversation_is_not_written(tmp_path):
    with pytest.raises(DataError, match="record 1: a conversation needs"):
        write_instructions(tmp_path / "mix.json", [Instruction("a", None, ("q",))])
    assert not list(tmp_path.iterdir())
