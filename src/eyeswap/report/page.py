"""The report as one HTML file that needs nothing else: no network, no fonts, no framework.

Style sheet, script, figures (SVG) and images (data URIs) are all inside; a content security policy in the
page forbids every request. Whatever comes from data or models is escaped by the template or set as text by
the script.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from eyeswap.report import figures, style
from eyeswap.report.compare import Comparison
from eyeswap.report.examples import example_data
from eyeswap.report.fixed import fact_rows, recipe_rows
from eyeswap.report.gather import GROUP_TITLES, StudyResults
from eyeswap.report.verdict import Verdict
from eyeswap.study.audit import AuditReport

TEMPLATES = Path(__file__).parent / "templates"
KIND_LABELS = {"decided": "Decided", "open": "Not decided", "warning": "Caution", "note": "Note"}
FACT_LABELS = {
    "undeclared": "differs, not declared",
    "declared": "differs as declared",
    "equal": "equal",
    "unknown": "not recorded",
}


def render(
    results: StudyResults,
    verdict: Verdict,
    averages: list[Comparison],
    benchmarks: list[Comparison],
    audit: AuditReport | None,
) -> str:
    """Return the whole page."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    colors = {arm.name: f"var(--arm-{index % style.NUM_COLORS})" for index, arm in enumerate(results.arms)}
    environment.filters |= {
        "percent": style.percent,
        "points": style.points,
        "count": style.count,
        "size": style.size,
        "bare_p_value": lambda p: style.p_value(p).removeprefix("p ").removeprefix("= "),
        "arms": partial(_with_arms, colors=colors),
    }
    css = (
        f":root{{{style.css_variables(style.LIGHT)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{style.css_variables(style.DARK)}}}}}\n"
        + (TEMPLATES / "report.css").read_text(encoding="utf-8")
    )
    return environment.get_template("report.html.j2").render(
        results=results,
        verdict=verdict,
        pairs=averages,
        benchmark_pairs=benchmarks,
        titles=GROUP_TITLES | {one.name: one.title for one in results.benchmarks},
        audit=audit,
        facts=fact_rows(audit) if audit else [],
        recipe=recipe_rows(results),
        colors=colors,
        kind_labels=KIND_LABELS,
        fact_labels=FACT_LABELS,
        figures=_figures(results) if results.finished_arms else {},
        examples=Markup(_script_json(example_data(results))) if results.finished_arms else None,
        css=Markup(css),
        js=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )


def _figures(results: StudyResults) -> dict[str, dict[str, Markup]]:
    """Return each figure as SVG for a wide and for a narrow page."""
    drawings = {
        "averages": (figures.averages, "Weighted averages of all arms with 95% intervals"),
        "size": (figures.overall_against_size, "Overall score against backbone parameters"),
        "benchmarks": (figures.benchmarks, "Score of every arm on every benchmark with 95% intervals"),
        "learning": (figures.learning_curves, "Training loss of every arm over the steps"),
    }
    return {
        name: {
            kind: Markup(figures.svg(draw, results, width, f"{name}-{kind}", title))
            for kind, width in (("wide", figures.WIDE), ("narrow", figures.NARROW))
        }
        for name, (draw, title) in drawings.items()
    }


def _with_arms(text: str, colors: dict[str, str]) -> Markup:
    """Turn ``**name**`` into the arm's mark: its colour as a dot, its name in bold."""

    def mark(match: re.Match[str]) -> str:
        name = match.group(1)
        return str(Markup('<b class="arm" style="--c:{}">{}</b>').format(colors.get(name, "currentColor"), name))

    return Markup(re.sub(r"\*\*(.+?)\*\*", mark, str(escape(text))))


def _script_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
