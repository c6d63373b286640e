"""A page in the browser that asks several VLMs the same about one image, and shows their answers side by side.

The page is gradio's. Uploaded files are kept from it: they are opened by `eyeswap.images` alone, which takes every file
for hostile, and what the page shows are images encoded anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eyeswap.errors import EnvironmentProblem, EyeswapError, SpecError
from eyeswap.evaluation.ask import Answer, ask_model, with_box
from eyeswap.evaluation.grounding import box_request
from eyeswap.images import open_picture

if TYPE_CHECKING:
    from PIL import Image

    from eyeswap.vlm.model import VisionLanguageModel

MOST_MODELS = 8
MOST_UPLOAD_BYTES = 20_000_000
MOST_CHARACTERS = 500  # of a question
MOST_CHOICES = 8
MODES = ("question", "box", "choices")
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Shown:
    """What the page shows of one model's answer.

    Attributes:
        image: the image, with the box of the answer drawn in.
        text: the answer, or why there is none.
        probabilities: of the choices; empty for other questions.
        speed: tokens and time in words.
    """

    image: Image.Image | None
    text: str
    probabilities: Mapping[str, float]
    speed: str


def import_gradio() -> Any:
    """Import gradio.

    Raises:
        EnvironmentProblem: if it is not installed.
    """
    try:
        import gradio
    except ImportError:
        raise EnvironmentProblem("gradio is not installed; pip install 'eyeswap[demo]'") from None
    return gradio


def split_choices(text: str) -> tuple[str, ...]:
    """Return choices written with commas between them.

    Raises:
        SpecError: if there are fewer than two, too many, or two are the same.
    """
    choices = tuple(choice.strip() for choice in text.split(",") if choice.strip())
    if not 2 <= len(choices) <= MOST_CHOICES or len(set(choices)) < len(choices):
        raise SpecError(f"choices: write 2 to {MOST_CHOICES} different ones with commas between them, found {text!r}")
    return choices


def answers(
    models: Mapping[str, VisionLanguageModel], image: Any, mode: str, text: str, choices: str = ""
) -> Iterator[Shown]:
    """Ask every model the same about one image; yield what the page shows of each.

    Args:
        models: the VLMs by name.
        image: what `eyeswap.images.open_picture` takes.
        mode: one of `MODES`.
        text: a question, or in mode ``box`` what to locate.
        choices: in mode ``choices``, the answers to choose from.

    Raises:
        SpecError: if nothing is asked, or too much.
        DataError: if the image cannot be read.
    """
    text = text.strip()
    if image is None:
        raise SpecError("choose an image first")
    if not text or len(text) > MOST_CHARACTERS:
        raise SpecError(f"write a question of 1 to {MOST_CHARACTERS} characters")
    offered = split_choices(choices) if mode == "choices" else ()
    picture = open_picture(image)
    for model in models.values():
        try:
            answer = ask_model(model, picture, box_request(text) if mode == "box" else text, choices=offered)
            yield _shown(answer, picture)
        except EyeswapError as error:
            yield Shown(picture, f"{NO_ANSWER}: {error}", {}, "")


def _shown(answer: Answer, picture: Image.Image) -> Shown:
    image = picture if answer.box_px is None else with_box(picture, answer.box_px)
    speed = f"{answer.seconds:.2f} s"
    if answer.num_tokens and answer.probabilities is None:
        speed += f", {answer.num_tokens} tokens, {answer.num_tokens / max(answer.seconds, 1e-9):.1f} tokens/s"
    return Shown(image, answer.text, answer.probabilities or {}, speed)


def build_page(models: Mapping[str, VisionLanguageModel]) -> Any:
    """Return the page as ``gradio.Blocks``.

    Args:
        models: the VLMs by name, at most `MOST_MODELS`.

    Raises:
        EnvironmentProblem: if gradio is not installed.
        SpecError: if there are too many models.
    """
    gradio = import_gradio()
    if not 1 <= len(models) <= MOST_MODELS:
        raise SpecError(f"a page shows 1 to {MOST_MODELS} models, found {len(models)}; name fewer runs")

    def preview(path: str | None) -> Image.Image | None:
        try:
            return None if path is None else open_picture(path)
        except EyeswapError as error:
            raise gradio.Error(_without_folder(str(error), path), print_exception=False) from None

    def ask(path: str | None, mode: str, text: str, choices: str) -> list[Any]:
        try:
            shown = list(answers(models, path, mode, text, choices))
        except EyeswapError as error:
            raise gradio.Error(_without_folder(str(error), path), print_exception=False) from None
        return [
            part
            for answer in shown
            for part in (answer.image, answer.text, dict(answer.probabilities) or None, answer.speed)
        ]

    with gradio.Blocks(analytics_enabled=False, title="eyeswap", delete_cache=(600, 600)) as page:
        with gradio.Row():
            with gradio.Column():
                file = gradio.File(label="Image", file_types=["image"], type="filepath", elem_id="file")
                view = gradio.Image(show_label=False, interactive=False, height=240, elem_id="view")
            with gradio.Column():
                mode = gradio.Radio(list(MODES), value=MODES[0], label="Ask for", elem_id="mode")
                text = gradio.Textbox(label="Question, or what to locate", max_length=MOST_CHARACTERS, elem_id="text")
                choices = gradio.Textbox(
                    label="Choices, with commas", value="yes, no", visible=False, elem_id="choices"
                )
                button = gradio.Button("Ask all", variant="primary", elem_id="ask")
        outputs: list[Any] = []
        of_choices = [choices]  # shown only where choices are offered
        with gradio.Row():
            for number, name in enumerate(models):
                with gradio.Column(min_width=240, elem_id=f"arm-{number}"):
                    outputs += [
                        gradio.Image(label=name, interactive=False, height=240),
                        gradio.Textbox(label=f"{name} answers", interactive=False),
                        gradio.Label(label="probabilities", show_heading=False, visible=False),
                        gradio.Textbox(label="speed", interactive=False),
                    ]
                    of_choices.append(outputs[-2])
        file.change(preview, file, view, api_visibility="private")
        mode.change(
            lambda chosen: [gradio.update(visible=chosen == "choices")] * len(of_choices),
            mode,
            of_choices,
            api_visibility="private",
        )
        for event in (button.click, text.submit):
            event(ask, [file, mode, text, choices], outputs, concurrency_limit=1, api_visibility="private")
    page.queue(max_size=16)
    return page


def launch(page: Any, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serve a page in the background of this process; return its address.

    Args:
        page: what `build_page` returned.
        host: address to listen at; whoever reaches it can ask.
        port: number of the port; a free one from 7860 on by default.

    Raises:
        EnvironmentProblem: if the port is taken or the address is not of this machine.
    """
    gradio = import_gradio()
    plain = gradio.themes.Base(font=["sans-serif"], font_mono=["monospace"])  # other fonts come from the network
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            max_file_size=MOST_UPLOAD_BYTES,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            theme=plain,
        )
    except OSError as error:
        raise EnvironmentProblem(f"{host}, port {port or 'of any number'}: cannot listen there: {error}") from None
    return str(address)


def _without_folder(message: str, path: str | None) -> str:
    """Return a message without the place where uploads lie."""
    return message if path is None else message.replace(path, path.rpartition("/")[2])
