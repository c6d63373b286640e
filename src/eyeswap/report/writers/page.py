"""The report as one HTML file that needs nothing else: no network, no fonts, no framework.

Style sheet, script, figures (SVG), images and downloads (data URIs) are all inside; a content security policy in the
page forbids every request. Whatever comes from data or models is escaped by the templates or set as text by the
script. ``templates/report.html.j2`` is the page, ``templates/sections`` has one file a section.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from eyeswap.report import style
from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.boxes import FATE_TITLES, FATES, frames_note, frames_table
from eyeswap.report.analysis.fixed import fact_rows, recipe_rows
from eyeswap.report.analysis.study import GROUP_TITLES
from eyeswap.report.analysis.verdict import correlation
from eyeswap.report.figures import NARROW, WIDE, Plot, plots, svg
from eyeswap.report.writers.data import as_json, long_csv
from eyeswap.report.writers.examples import IMAGE_BYTES, example_data
from eyeswap.report.writers.matrix import difference_matrix

TEMPLATES = Path(__file__).parents[1] / "templates"
STYLES = ("page.css", "tables.css", "examples.css", "screens.css")
MOST_BYTES = 8_000_000  # of a page
ROOM_FOR_TEXT = 400_000  # questions and answers of the examples
MOST_ROWS = 400  # of a table of pairs
MOST_TO_TAKE_ALONG = 1_000_000  # bytes of a file that the page carries
EXAMPLES_GO_HERE = "examples-go-here"
KIND_LABELS = {"decided": "Decided", "open": "Open", "runs": "These runs", "warning": "Caution", "note": "Note"}
FACT_LABELS = {
    "undeclared": "differs, not declared",
    "declared": "differs as declared",
    "equal": "equal",
    "unknown": "not recorded",
}


def render(analysis: Analysis) -> str:
    """Return the whole page."""
    page = _without_examples(analysis)
    if not analysis.results.finished_arms:
        return page
    room = (MOST_BYTES - len(page.encode())) * 3 // 4 - ROOM_FOR_TEXT  # base64 makes four bytes of three
    examples = example_data(analysis.results, image_bytes=min(max(room, 0), IMAGE_BYTES))
    return page.replace(EXAMPLES_GO_HERE, _script_json(examples))


def _without_examples(analysis: Analysis) -> str:
    results = analysis.results
    colors = {arm.name: f"var(--arm-{index % style.NUM_COLORS})" for index, arm in enumerate(results.arms)}
    return (
        _environment(colors)
        .get_template("report.html.j2")
        .render(
            analysis=analysis,
            results=results,
            titles=GROUP_TITLES | {one.name: one.title for one in results.benchmarks},
            colors=colors,
            figures=_figures(analysis),
            matrices={group: difference_matrix(analysis, group) for group in results.groups if analysis.averages},
            facts=fact_rows(analysis.audit) if analysis.audit else [],
            recipe=recipe_rows(results),
            most_rows=MOST_ROWS,
            kind_labels=KIND_LABELS,
            fact_labels=FACT_LABELS,
            box_frames=frames_table(analysis.grounding) if analysis.grounding else None,
            frames_note=frames_note(analysis.grounding),
            fates={fate: FATE_TITLES[fate] for fate in FATES},
            examples=Markup(EXAMPLES_GO_HERE) if results.finished_arms else None,
            downloads=_downloads(analysis) if results.finished_arms else [],
            css=Markup(_css()),
            js=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        )
    )


def _environment(colors: Mapping[str, str]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "percent": style.percent,
        "detectable": style.detectable,
        "points": style.points,
        "count": style.count,
        "size": style.size,
        "cost": style.cost,
        "correlation": correlation,
        "caption": _caption,
        "bare_p_value": lambda p: style.p_value(p).removeprefix("p ").removeprefix("= "),
        "arms": partial(_with_arms, colors=colors),
    }
    return environment


def _css() -> str:
    sheets = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in STYLES)
    return (
        f":root{{{style.css_variables(style.LIGHT)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{style.css_variables(style.DARK)}}}}}\n{sheets}"
    )


def _figures(analysis: Analysis) -> dict[str, tuple[Plot, dict[str, Markup]]]:
    """Return each figure with its drawings as SVG, for a wide and for a narrow page."""
    return {
        name: (
            plot,
            {
                kind: Markup(svg(plot, analysis, width, f"{name}-{kind}"))
                for kind, width in (("wide", WIDE), ("narrow", NARROW))
            },
        )
        for name, plot in plots(analysis).items()
    }


def _downloads(analysis: Analysis) -> list[tuple[str, str, str]]:
    """Return (file name, what it is, data URI) of the files that lie beside the page, if they are not too long."""
    content = json.dumps(as_json(analysis), ensure_ascii=False)
    files = [
        ("results.csv", "every score of every run", "text/csv", long_csv(analysis.results)),
        ("results.json", "everything on this page", "application/json", content),
    ]
    return [(name, what, _data_uri(kind, text)) for name, what, kind, text in files if len(text) <= MOST_TO_TAKE_ALONG]


def _data_uri(kind: str, content: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"


def _with_arms(text: str, colors: Mapping[str, str]) -> Markup:
    """Turn ``**name**`` into the arm's mark: its colour as a dot, its name in bold."""

    def mark(match: re.Match[str]) -> str:
        name = match.group(1)
        return str(Markup('<b class="arm" style="--c:{}">{}</b>').format(colors.get(name, "currentColor"), name))

    whole = str(escape(text)).replace("p = ", "p&nbsp;=&nbsp;")
    return Markup(re.sub(r"\*\*(.+?)\*\*", mark, whole))


def _caption(text: str) -> Markup:
    """Set what stands between backticks as code, and apostrophes as type does."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text.replace("'", "’")))))  # noqa: RUF001


def _script_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
