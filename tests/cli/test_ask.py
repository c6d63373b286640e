"""`eyeswap ask` prints the answer, gives and draws boxes, prints JSON, and keeps the model loaded at a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from eyeswap.evaluation.ask import Answer

BOX = Answer("[0.10, 0.20, 0.90, 0.80]", (10.0, 10.0, 90.0, 40.0))


class FakeVlm:
    """Answers requests from a table, and counts how often it was loaded."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers, self.num_loaded, self.device = answers, 0, ""

    def load(self, run: Path, *, device: str | None = None, trust_remote_code: bool = False) -> FakeVlm:
        self.num_loaded += 1
        self.device = device or ""
        return self

    def ask(self, vlm: FakeVlm, image: Path, question: str) -> Answer:
        return self.answers[question]

    def locate(self, vlm: FakeVlm, image: Path, expression: str) -> Answer:
        return self.answers[f"box {expression}"]


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "scene.png"
    Image.new("RGB", (100, 50), (255, 255, 255)).save(path)
    return path


@pytest.fixture
def vlm(monkeypatch: pytest.MonkeyPatch) -> FakeVlm:
    fake = FakeVlm({"How many?": Answer("three", None), "box the dog": BOX, "box a left": Answer("left", None)})
    for name, function in (("load_vlm", fake.load), ("ask", fake.ask), ("locate", fake.locate)):
        monkeypatch.setattr(f"eyeswap.api.{name}", function)
    return fake


def ask(*arguments: Any, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["ask", *map(str, arguments)], input=typed)


def test_a_plain_answer_is_printed_alone(vlm: FakeVlm, image: Path) -> None:
    result = ask("run", image, "How many?", "--device", "cpu")
    assert (result.exit_code, result.stdout) == (0, "three\n")
    assert vlm.device == "cpu"


def test_a_box_is_given_in_pixels_and_drawn(vlm: FakeVlm, image: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    result = ask("run", image, "--box", "the dog", "--save", drawn)
    assert "box: x 10 to 90, y 10 to 40 pixels" in result.stdout
    with Image.open(drawn) as picture:
        assert picture.size == (100, 50)
        assert picture.getpixel((10, 25)) == (230, 30, 60)
        assert picture.getpixel((50, 25)) == (255, 255, 255)


def test_a_box_is_drawn_beside_the_command_by_default(vlm: FakeVlm, image: Path, tmp_path: Path) -> None:
    ask("run", image, "--box", "the dog")
    assert (tmp_path / "scene-answer.png").is_file()


def test_json_has_the_answer_and_the_box(vlm: FakeVlm, image: Path, tmp_path: Path) -> None:
    result = ask("run", image, "--box", "the dog", "--json")
    assert json.loads(result.stdout) == {"answer": BOX.text, "box_px": [10.0, 10.0, 90.0, 40.0]}
    assert not (tmp_path / "scene-answer.png").exists()


def test_nothing_is_saved_if_there_is_no_box(vlm: FakeVlm, image: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    result = ask("run", image, "--box", "a left", "--save", drawn)
    assert result.exit_code == 1
    assert result.stderr == f"error: {drawn} was not written: the answer contains no box to draw\n"
    assert not drawn.exists()


def test_the_prompt_answers_many_questions_with_one_loaded_model(vlm: FakeVlm, image: Path, tmp_path: Path) -> None:
    typed = f"How many?\nimage none.png\nimage {image}\nHow many?\n\nbox the dog\nquit\nHow many?\n"
    result = ask("run", typed=typed)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "no image yet; choose one with: image PATH",
        "three",
        BOX.text,
        "box: x 10 to 90, y 10 to 40 pixels",
        "saved: scene-answer.png",
    ]
    assert result.stderr.startswith("error: none.png: ")
    assert vlm.num_loaded == 1


def test_the_prompt_ends_with_the_input(vlm: FakeVlm, image: Path) -> None:
    result = ask("run", image, typed="How many?")
    assert (result.exit_code, result.stdout) == (0, "three\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "the dog"], "--box needs an image"),
        (["scene.png", "How many?", "--box", "the dog"], "exclude each other"),
        (["scene.png", "--json"], "--json needs a question"),
        (["none.png", "How many?"], "none.png: "),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    vlm: FakeVlm, image: Path, arguments: list[str], message: str
) -> None:
    result = ask("run", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert vlm.num_loaded == 0


def test_a_folder_without_a_model_is_named(image: Path, tmp_path: Path) -> None:
    result = ask(tmp_path, image, "What?")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no trained model here")


def test_a_device_that_is_not_there_is_named(image: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "eyeswap"}', encoding="utf-8")
    result = ask(tmp_path, image, "What?", "--device", "quantum")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --device quantum: torch cannot use it here")
