"""Texts that leave the machine keep their words and lose the folders of its paths."""

from __future__ import annotations

import dataclasses

import pytest

from eyeswap.runs.privacy import without_paths

PATHS = {
    "/Users/jane doe/llava mix": "llava mix",
    "/Users/jane/my_encoder.py:vit": "my_encoder.py:vit",
    "/data/": "data",
    "~/vicuna-7b": "vicuna-7b",
    "~jane/vicuna-7b": "vicuna-7b",
    r"C:\Users\jane\data": "data",
    r"\\server\jane\data": "data",
    "file:///Users/jane/x.json": "x.json",
    "/Users/jane doe/im/1.jpg: not a readable image: cut": "1.jpg: not a readable image: cut",
    "see `/Users/jane/run/train.jsonl`, step 3": "see `train.jsonl`, step 3",
    "--data=/srv/jane/x --llm /srv/jane/y": "--data=x --llm y",
}
WORDS = (
    "RefCOCO/+/g", "https://example.org/a/b", "a and/or b", "[/INST] </s>", "1/2", "digits-vit", "coco/train2017/1.jpg",
    "../data/x", "w/o, n/a", "timm:vit_small", "", "lmsys/vicuna-7b-v1.5", "Is the sign 24/7/365?",
)  # fmt: skip


@pytest.mark.parametrize(("text", "left"), PATHS.items())
def test_paths_are_cut_to_their_last_name(text: str, left: str) -> None:
    assert without_paths(text) == left
    assert without_paths(left) == left


@pytest.mark.parametrize("text", WORDS)
def test_other_text_stays(text: str) -> None:
    assert without_paths(text) == text


def test_every_text_of_a_value_is_looked_at() -> None:
    @dataclasses.dataclass(frozen=True)
    class Note:
        place: str
        size: int

    value = {"/srv/a/b": [{"x": ("/srv/a/c", 1, None)}, Note("/srv/a/d", 2)]}
    assert without_paths(value) == {"b": [{"x": ("c", 1, None)}, Note("d", 2)]}
