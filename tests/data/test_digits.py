import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyeswap.data.digits.benchmarks import FAMILIES
from eyeswap.data.digits.language import conversation, expression, name, questions, word_grid
from eyeswap.data.digits.scene import COLOURS, DIGITS, pool, render, sample_scene, scans, scene_rng
from eyeswap.data.digits.write import INSTRUCTION_FILE, INSTRUCTION_IMAGES, DigitsSize, write_digits
from eyeswap.data.instruction import read_instructions
from eyeswap.evaluation import get_benchmark
from eyeswap.images import open_image

SIZE = DigitsSize(seed=5, num_train_images=30, num_val_images=25, turns=8)
BENCHMARKS = ("vqav2", "pope", "tallyqa", "refcoco", "refcoco+", "refcocog", "ocid-ref")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, SIZE)
    return folder


def test_handwriting_pools_are_disjoint_and_hold_every_scan():
    train = {int(row) for rows in pool("train").values() for row in rows}
    val = {int(row) for rows in pool("val").values() for row in rows}
    assert not train & val
    assert len(train | val) == len(scans()[1]) == 1797
    assert all(len(pool("val")[digit]) > 20 for digit in DIGITS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_scenes_keep_their_things_apart_and_inside(index: int):
    scene = sample_scene(scene_rng(0, "train", index), "train")
    assert 1 <= len(scene.things) <= 6
    assert 2 / 3 - 0.02 <= scene.width / scene.height <= 3 / 2 + 0.02
    for position, thing in enumerate(scene.things):
        x0, y0, x1, y1 = thing.box
        assert 0 <= x0 < x1 <= scene.width
        assert 0 <= y0 < y1 <= scene.height
        for other in scene.things[position + 1 :]:
            assert x1 <= other.box[0] or other.box[2] <= x0 or y1 <= other.box[1] or other.box[3] <= y0


def test_the_same_seed_draws_the_same_pixels():
    first, second = (render(sample_scene(scene_rng(3, "val", 8), "val")) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_a_thing_shows_its_colour_where_its_box_says():
    scene = sample_scene(scene_rng(1, "train", 4), "train")
    pixels = np.asarray(render(scene)).astype(float)
    for thing in scene.things:
        x0, y0, x1, y1 = (round(value) for value in thing.box)
        distance = np.abs(pixels[y0:y1, x0:x1] - np.asarray(COLOURS[thing.colour])).sum(-1)
        assert (distance < 120).mean() > 0.1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_questions_have_answers_that_the_scene_proves(index: int):
    rng = scene_rng(1, "train", index)
    scene = sample_scene(rng, "train")
    kinds = [thing.kind for thing in scene.things]
    present = {name(thing) for thing in scene.things}
    for question in questions(scene, rng):
        if question.kind == "colour":
            asked = question.text.removeprefix("What color is the ").removesuffix("?")
            assert kinds.count(asked) == 1
            assert scene.things[kinds.index(asked)].colour == question.answer
        if question.kind == "exist":
            asked = question.text.removeprefix("Is there a ").removesuffix(" in the image?")
            assert (asked in present) == (question.answer == "yes")
        if question.text == "How many objects are there?":
            assert int(question.answer) == len(scene.things)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_expressions_fit_one_thing_and_respect_their_style(index: int):
    rng = scene_rng(2, "train", index)
    scene = sample_scene(rng, "train")
    said: dict[str, int] = {}
    for position, target in enumerate(scene.things):
        for style in ("refcoco", "refcoco+", "refcocog", "ocid-ref"):
            text = expression(scene, target, style, rng)
            if text is None:
                continue
            bare = text.removeprefix("the ")
            assert said.setdefault(bare, position) == position, f"{bare!r} fits two things"
            words = ("left", "right", "top", "bottom", "above", "below")
            assert style != "refcoco+" or not any(word in text for word in words)


def test_yes_and_no_are_balanced():
    answers = []
    for index in range(300):
        rng = scene_rng(4, "train", index)
        scene = sample_scene(rng, "train")
        answers += [q.answer for q in questions(scene, rng) if q.kind in ("exist", "relation")]
    assert 0.45 < answers.count("yes") / len(answers) < 0.55


def test_a_scene_drawn_in_words_names_each_thing_and_its_padding():
    rng = scene_rng(0, "train", 2)
    scene = sample_scene(rng, "train", num_things=3, size=(180, 120))
    words = word_grid(scene, 8, 8)
    assert len(words) == 64
    assert {f"{thing.colour}-{thing.kind}" for thing in scene.things} <= set(words)
    assert words[:8] == ["_"] * 8


def test_conversations_mix_answers_letters_boxes_and_descriptions():
    rng = scene_rng(0, "train", 9)
    scene = sample_scene(rng, "train", num_things=4)
    humans = [human for human, _ in conversation(scene, rng, num_questions=5, num_boxes=4)]
    for phrase in ("single word or phrase", "option's letter", "bounding box", "short description"):
        assert any(phrase in human for human in humans)


def test_the_data_set_is_read_back_by_the_official_loaders(root: Path):
    instructions = read_instructions(root / INSTRUCTION_FILE, INSTRUCTION_IMAGES)
    assert len(instructions) == SIZE.num_train_images
    assert all((root / str(instruction.image)).is_file() for instruction in instructions)
    seen = set()
    for benchmark_name in BENCHMARKS:
        benchmark = get_benchmark(benchmark_name)
        examples = benchmark.examples(root)
        train = benchmark.examples(root, "train")
        assert examples
        assert train
        assert all((root / example.image).is_file() for example in examples)
        assert not {example.example_id for example in examples} & {example.example_id for example in train}
        seen.add(benchmark.family)
    assert seen == set(FAMILIES)


def test_boxes_on_disk_are_the_boxes_in_the_picture(root: Path):
    for example in get_benchmark("refcoco").examples(root)[:5]:
        assert example.size == open_image(root / example.image).size


def test_generation_is_byte_identical_and_not_repeated(root: Path, tmp_path: Path):
    def sums(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    first = json.loads((root / "digits.json").read_text())["digest"]
    assert write_digits(tmp_path, SIZE) == first
    assert sums(tmp_path) == sums(root)
    image = next((tmp_path / INSTRUCTION_IMAGES).rglob("*.jpg"))
    written = image.stat().st_mtime_ns
    write_digits(tmp_path, SIZE)
    assert image.stat().st_mtime_ns == written
