"""`eyeswap ask RUN IMAGE "question"`: ask a trained run about one image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = 'Example: eyeswap ask runs/quickstart/vmamba/seed-7 scene.png "How many digits are there?"'


def ask(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, or of a saved VLM.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")],
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="PNG",
            help="Where to save the picture with the box drawn; by default <image>-answer.png in this folder.",
        ),
    ] = None,
) -> None:
    """Ask a trained VLM about one image; a box is also given in pixels and drawn into a copy of the image."""
    from eyeswap.errors import RunError
    from eyeswap.evaluation.ask import ask as ask_run

    answer = ask_run(run, image, question)
    typer.echo(answer.text)
    if answer.box_px is not None:
        left, top, right, bottom = answer.box_px
        typer.echo(f"box: x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} pixels")
        target = save or Path(f"{image.stem}-answer.png")
        draw_box(image, answer.box_px, target)
        typer.echo(f"saved: {target}")
    elif save is not None:
        raise RunError(f"{save} was not written: the answer holds no box to draw")


def draw_box(image: Path, box_px: tuple[float, float, float, float], to: Path) -> None:
    """Write a PNG copy of an image with a box drawn into it; ``box_px`` is left, top, right, bottom."""
    from PIL import ImageDraw

    from eyeswap.files import atomic_path, open_image

    picture = open_image(image)
    width = max(1, round(max(picture.size) / 200))
    ImageDraw.Draw(picture).rectangle(box_px, outline=(230, 30, 60), width=width)
    with atomic_path(to) as temporary:
        picture.save(temporary, format="PNG")
