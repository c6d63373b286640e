"""The demo asks all models the same, shows answers side by side, and takes uploads for hostile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from chromium import CHROMIUM, FLAGS
from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.ask import find_models
from eyeswap.cli.main import app
from eyeswap.errors import DataError, SpecError
from eyeswap.evaluation.ask import Answer
from eyeswap.integrations import demo
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.llm import load_llm
from eyeswap.vlm.model import VisionLanguageModel

IMAGE = Image.new("RGB", (200, 100), (255, 255, 255))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Answer with the model's name; return what was asked."""
    asked: list[tuple[Any, ...]] = []

    def ask(model: str, image: Image.Image, question: str, choices: tuple[str, ...] = ()) -> Answer:
        asked.append((model, question, choices))
        if model == "broken":
            raise DataError("no such thing")
        box = (20.0, 20.0, 100.0, 60.0) if "bounding box" in question else None
        return Answer(model, box, {choice: 1 / len(choices) for choice in choices} or None, 4, 2.0)

    monkeypatch.setattr(demo, "ask_model", ask)
    return asked


def shown(mode: str, text: str, choices: str = "") -> list[demo.Shown]:
    models: Any = {"a": "a", "b": "b"}
    return list(demo.answers(models, IMAGE, mode, text, choices))


def test_all_models_are_asked_the_same(told: list[tuple[Any, ...]]) -> None:
    first, second = shown("question", " What is it? ")
    assert [part[:2] for part in told] == [("a", "What is it?"), ("b", "What is it?")]
    assert (first.text, second.text) == ("a", "b")
    assert first.speed == "2.00 s, 4 tokens, 2.0 tokens/s"


def test_boxes_are_drawn(told: list[tuple[Any, ...]]) -> None:
    image = shown("box", "the dog")[0].image
    assert image is not None
    assert image.getpixel((20, 40)) == (230, 30, 60)
    assert IMAGE.getpixel((20, 40)) == (255, 255, 255)


def test_choices_have_probabilities(told: list[tuple[Any, ...]]) -> None:
    assert shown("choices", "Is it?", "yes, no")[0].probabilities == {"yes": 0.5, "no": 0.5}
    assert told[0][2] == ("yes", "no")


def test_a_model_that_cannot_answer_does_not_stop_the_others(told: list[tuple[Any, ...]]) -> None:
    models: Any = {"broken": "broken", "b": "b"}
    broken, other = demo.answers(models, IMAGE, "question", "What is it?")
    assert broken.text == "no answer: no such thing"
    assert other.text == "b"


@pytest.mark.parametrize(
    ("text", "choices", "message"),
    [
        ("", "a, b", "1 to 500 characters"),
        ("x" * 501, "a, b", "1 to 500 characters"),
        ("Is it?", "a", "write 2 to 8 different ones"),
        ("Is it?", "a, a", "write 2 to 8 different ones"),
        ("Is it?", ",".join("abcdefghi"), "write 2 to 8 different ones"),
    ],
)
def test_too_little_and_too_much_are_refused(
    told: list[tuple[Any, ...]], text: str, choices: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        shown("choices", text, choices)
    assert not told


def test_a_hostile_file_is_one_line(told: list[tuple[Any, ...]], tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    with pytest.raises(DataError):
        list(demo.answers({}, str(path), "question", "What is it?"))


def test_without_gradio_the_extra_is_named_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    result = CliRunner().invoke(app, ["serve", "runs/none"])
    assert result.exit_code != 0
    assert "pip install 'eyeswap[demo]'" in result.stderr


def test_runs_are_found_and_named(tmp_path: Path) -> None:
    for arm in ("vit", "vmamba"):
        run = tmp_path / "study" / arm / "seed-7"
        (run / "model").mkdir(parents=True)
        (run / "spec.json").write_text("{}")
        (run / "model" / "config.json").write_text("{}")
    assert list(find_models([tmp_path / "study"])) == ["vit/seed-7", "vmamba/seed-7"]
    assert list(find_models([tmp_path / "study" / "vit" / "seed-7"])) == ["vit/seed-7"]
    with pytest.raises(DataError):
        find_models([tmp_path / "nothing"])


@pytest.fixture(scope="module")
def address(tiny_llm: Path) -> Any:
    pytest.importorskip("gradio", reason="needs the extra demo")
    llm, tokenizer, prompt = load_llm(tiny_llm)
    models = {}
    for name in ("digits-vit", "digits-vmamba"):
        backbone = load_backbone(name)
        connector = build_connector("gelu-mlp", backbone.network.embed_dim, 32, seed=1)
        models[name] = VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).eval()
    page = demo.build_page(models)
    yield demo.launch(page)
    page.close()


@pytest.mark.browser
@pytest.mark.filterwarnings("default")  # gradio's and its server's own
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH")
def test_all_arms_answer_in_a_browser(address: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install eyeswap[dev]")
    assert address.startswith("http://127.0.0.1:")
    IMAGE.save(tmp_path / "scene.png")
    (tmp_path / "evil.png").write_text("<script>alert(1)</script>")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        requests: list[str] = []
        page.on("request", lambda one: requests.append(one.url))
        page.goto(address)
        page.set_input_files("#file input[type=file]", tmp_path / "evil.png")
        page.get_by_text("evil.png: ").first.wait_for(timeout=180_000)
        page.reload()
        page.set_input_files("#file input[type=file]", tmp_path / "scene.png")
        page.locator("#view img").wait_for(timeout=180_000)
        page.get_by_label("choices", exact=True).check()
        page.fill("#text textarea", "Is there a dog?")
        page.click("#ask")
        for number in (0, 1):
            page.locator(f"#arm-{number}").get_by_text("%").first.wait_for(timeout=180_000)
            assert page.locator(f"#arm-{number} textarea").first.input_value() in ("yes", "no")
        page.screenshot(path=tmp_path / "demo.png", full_page=True)
        browser.close()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
