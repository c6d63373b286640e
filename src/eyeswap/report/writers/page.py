"""The report as one self-contained HTML file: no network, no fonts, no framework.

Style sheet, script, figures (SVG), images and downloads (data URIs) are embedded; a content security policy in the page
forbids every request. Everything that comes from data or models is escaped by the templates or set as text by the
script. ``templates/report.html.j2`` is the page, ``templates/sections`` has one file per section.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
from eyeswap.report.writers.examples import IMAGE_BYTES, Looks, example_data

TEMPLATES = Path(__file__).parents[1] / "templates"
STYLES = ("page.css", "tables.css", "examples.css", "screens.css")
MAX_PAGE_BYTES = 8_000_000
EXAMPLE_TEXT_BYTES = 400_000  # reserved for questions and answers of the examples
MAX_TABLE_ROWS = 400  # of pairs
MAX_DOWNLOAD_CHARS = 1_000_000  # of a file that is embedded as a download
EXAMPLES_PLACEHOLDER = "examples-go-here"
KIND_LABELS = {"decided": "Decided", "open": "Open", "runs": "These runs", "warning": "Caution", "note": "Note"}
FACT_LABELS = {
    "undeclared": "differs, not declared",
    "declared": "differs as declared",
    "equal": "equal",
    "unknown": "not recorded",
}


MARKS = {
    "decided": "*", "equivalent": "=", "no worse": "\N{ALMOST EQUAL TO}", "not decided": "",
    "higher in these runs": "*", "not told apart": "",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One arm minus another in a matrix of differences, points.

    Attributes:
        value: the difference.
        low: lower end of its 95% interval.
        high: upper end.
        in_words: see `eyeswap.report.analysis.pairs.Comparison.in_words`.
        strength: the absolute difference relative to the largest in the matrix, 0..1.
    """

    value: float
    low: float
    high: float
    in_words: str
    strength: float

    @property
    def mark(self) -> str:
        """The sign after the number."""
        return MARKS[self.in_words]


def difference_matrix(analysis: Analysis, where: str) -> list[tuple[str, list[Cell | None]]]:
    """Return one row per arm, the best first, with a cell for each arm in the same order; None on the diagonal."""
    arms = sorted(analysis.results.finished_arms, key=lambda arm: -arm.scores.averages[where].value)
    names = [arm.name for arm in arms]
    largest = max((pair.value for pair in analysis.averages if pair.where == where), default=0.0) or 1.0
    return [(row, [_cell(analysis, where, row, column, largest) for column in names]) for row in names]


def render(analysis: Analysis, looks: Looks | None = None) -> str:
    """Return the whole page; ``looks`` are where in the image each answer comes from, if that was looked at."""
    page = _without_examples(analysis, has_looks=bool(looks))
    if not analysis.results.finished_arms:
        return page
    taken = len(page.encode()) + len(json.dumps(list((looks or {}).values())))
    image_bytes = (MAX_PAGE_BYTES - taken) * 3 // 4 - EXAMPLE_TEXT_BYTES  # base64: 4 bytes for each 3
    examples = example_data(analysis.results, looks, image_bytes=min(max(image_bytes, 0), IMAGE_BYTES))
    return page.replace(EXAMPLES_PLACEHOLDER, _script_json(examples))


def _cell(analysis: Analysis, where: str, row: str, column: str, largest: float) -> Cell | None:
    pair = analysis.pair(where, row, column)
    if row == column or pair is None:
        return None
    strength = pair.value / largest
    if pair.ahead == row:
        return Cell(pair.value, pair.low, pair.high, pair.in_words, strength)
    return Cell(-pair.value, -pair.high, -pair.low, pair.in_words, strength)


def _without_examples(analysis: Analysis, *, has_looks: bool) -> str:
    results = analysis.results
    colors = {arm.name: f"var(--arm-{index % style.NUM_COLORS})" for index, arm in enumerate(results.arms)}
    return (
        _environment(colors)
        .get_template("report.html.j2")
        .render(
            analysis=analysis,
            results=results,
            titles=GROUP_TITLES | {benchmark.name: benchmark.title for benchmark in results.benchmarks},
            colors=colors,
            figures=_figures(analysis),
            matrices={group: difference_matrix(analysis, group) for group in results.groups if analysis.averages},
            facts=fact_rows(analysis.audit) if analysis.audit else [],
            recipe=recipe_rows(results),
            max_rows=MAX_TABLE_ROWS,
            kind_labels=KIND_LABELS,
            fact_labels=FACT_LABELS,
            box_frames=frames_table(analysis.grounding) if analysis.grounding else None,
            frames_note=frames_note(analysis.grounding),
            fates={fate: FATE_TITLES[fate] for fate in FATES},
            has_looks=has_looks,
            examples=Markup(EXAMPLES_PLACEHOLDER) if results.finished_arms else None,
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
    """Return each figure with its SVG drawings for wide and for narrow pages."""
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
    """Return (file name, description, data URI) of the data files, without those that are too long."""
    content = json.dumps(as_json(analysis), ensure_ascii=False)
    files = [
        ("results.csv", "every score of every run", "text/csv", long_csv(analysis.results)),
        ("results.json", "everything on this page", "application/json", content),
    ]
    return [
        (name, description, _data_uri(kind, text))
        for name, description, kind, text in files
        if len(text) <= MAX_DOWNLOAD_CHARS
    ]


def _data_uri(kind: str, content: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"


def _with_arms(text: str, colors: Mapping[str, str]) -> Markup:
    """Turn ``**name**`` into an arm's name in bold with a dot in its colour, and text between backticks into code."""

    def mark(match: re.Match[str]) -> str:
        name = match.group(1)
        return str(Markup('<b class="arm" style="--c:{}">{}</b>').format(colors.get(name, "currentColor"), name))

    escaped = str(escape(text)).replace("p = ", "p&nbsp;=&nbsp;")
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", mark, escaped)))


def _caption(text: str) -> Markup:
    """Set text between backticks as code, and use typographic apostrophes."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text.replace("'", "’")))))  # noqa: RUF001


def _script_json(value: Any) -> str:
    """Return JSON that cannot end the script element around it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
