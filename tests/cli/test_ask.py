"""`eyeswap ask` prints the answer, gives a box in pixels, and draws it on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from eyeswap.evaluation.ask import Answer


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.new("RGB", (100, 50), (255, 255, 255)).save(path)
    return path


def ask(monkeypatch: pytest.MonkeyPatch, answer: Answer, *arguments: Any) -> Result:
    monkeypatch.setattr("eyeswap.api.ask", lambda run, image, question: answer)
    return CliRunner().invoke(app, ["ask", *map(str, arguments)])


def test_a_plain_answer_is_printed_alone(monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    result = ask(monkeypatch, Answer("three", None), "run", image, "How many?")
    assert (result.exit_code, result.stdout) == (0, "three\n")


def test_a_box_is_given_in_pixels_and_drawn(monkeypatch: pytest.MonkeyPatch, image: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    box = Answer("[0.10, 0.20, 0.90, 0.80]", (10.0, 10.0, 90.0, 40.0))
    result = ask(monkeypatch, box, "run", image, "Where?", "--save", drawn)
    assert "box: x 10 to 90, y 10 to 40 pixels" in result.stdout
    with Image.open(drawn) as picture:
        assert picture.size == (100, 50)
        assert picture.getpixel((10, 25)) == (230, 30, 60)
        assert picture.getpixel((50, 25)) == (255, 255, 255)


def test_a_box_is_drawn_beside_the_command_by_default(
    monkeypatch: pytest.MonkeyPatch, image: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ask(monkeypatch, Answer("[0.10, 0.20, 0.90, 0.80]", (10.0, 10.0, 90.0, 40.0)), "run", image, "Where?")
    assert (tmp_path / "scene-answer.png").is_file()


def test_nothing_is_saved_if_there_is_no_box(monkeypatch: pytest.MonkeyPatch, image: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    result = ask(monkeypatch, Answer("left", None), "run", image, "Where?", "--save", drawn)
    assert result.exit_code == 1
    assert result.stderr == f"error: {drawn} was not written: the answer contains no box to draw\n"
    assert not drawn.exists()


def test_a_folder_without_a_model_is_named(image: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ask", str(tmp_path), str(image), "What?"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no trained model here")
