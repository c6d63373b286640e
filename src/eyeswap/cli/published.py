"""`eyeswap published`: the published study's results, with their source and precision."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLE = "Example: eyeswap published"


def published(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all results, and the curves of Figure 4, as JSON.")
    ] = False,
) -> None:
    """List the published results: weighted accuracies in percent, as printed or drawn."""
    from eyeswap.study.published import published_profile, published_results

    if as_json:
        import json
        from dataclasses import asdict

        rows = [one.as_dict() for one in published_results()]
        curves = [asdict(point) for point in published_profile()]
        typer.echo(json.dumps({"results": rows, "profile": curves}, indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    from eyeswap.cli.console import open_console

    table = Table("model", "backbone", "M", "tokens", "VQA", "loc.", "overall", "+-", "IN1K", "source", "note")
    for one in published_results():
        marked = "" if one.status == "ok" else f"{one.status}; "
        table.add_row(
            one.model,
            one.backbone,
            f"{one.parameters_m:g}",
            "" if one.tokens is None else f"{one.tokens:,}",
            *("" if score is None else f"{score:.2f}" for score in (one.vqa, one.localization, one.overall)),
            f"{one.precision:g}",
            "" if one.top1 is None else f"{one.top1:.2f}",
            one.source,
            marked + one.note,
        )
    open_console().print(table)
