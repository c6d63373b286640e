"""The style of all outputs: a colour and a marker per arm, and number formats.

Arms can also be told apart by readers who are colour-blind, with a contrast of at least 3:1, and none has the green or
orange that mean right and wrong. Figures are drawn in the light colours; `themed` turns each into a CSS variable, so
that the same drawing follows the reader's light or dark mode.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
BELOW = "†"
BELOW_NOTE = "not above the trivial baseline"

LIGHT = {
    "paper": "#fdfdfb",
    "ink": "#1d2026",
    "muted": "#646b76",
    "line": "#dcdfe3",
    "good": "#00795a",
    "alert": "#b54a00",
    "loose": "#7dbfa8",
    "frame": "#e3a36f",
    "unparsed": "#b9bdc4",
    "arm-0": "#0072b2",
    "arm-1": "#927000",
    "arm-2": "#b8568f",
    "arm-3": "#59616e",
    "arm-4": "#3b8fc4",
    "arm-5": "#6f4fb3",
    "arm-6": "#007f8c",
    "arm-7": "#8c3242",
}
DARK = {
    "paper": "#14161a",
    "ink": "#e9eaec",
    "muted": "#9aa1ac",
    "line": "#2e323a",
    "good": "#3dc89c",
    "alert": "#f68c46",
    "loose": "#27755e",
    "frame": "#8f5c31",
    "unparsed": "#555b66",
    "arm-0": "#5ab0f2",
    "arm-1": "#d9b03f",
    "arm-2": "#e79ac6",
    "arm-3": "#aab2be",
    "arm-4": "#9ad2f4",
    "arm-5": "#b7a0f2",
    "arm-6": "#4cc6d2",
    "arm-7": "#dc8e98",
}
NUM_COLORS = 8
MAX_NAME_LENGTH = 16
MARKERS = "osD^vPX*"

RC = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "eyeswap",  # equal figures have equal bytes
    "font.family": "DejaVu Sans",  # ships with matplotlib, so no machine lacks it
    "font.size": 9.0,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.7,
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def color(index: int) -> str:
    """Return the light-mode colour of the arm with this position in the study."""
    return LIGHT[f"arm-{index % NUM_COLORS}"]


def marker(index: int) -> str:
    """Return the matplotlib marker of the arm with this position in the study."""
    return MARKERS[(index + index // NUM_COLORS) % len(MARKERS)]  # shifted each time the colours repeat


def short_names(names: list[str], keep: Collection[str] = ()) -> dict[str, str]:
    """Return names shortened for narrow spaces, without hyphenated parts that are not needed to distinguish them.

    Names stay as they are if all are short. The most common parts are dropped first; at least two parts remain.

    Args:
        names: the names.
        keep: parts that always stay, such as the families of backbones.
    """
    if max(map(len, names), default=0) <= MAX_NAME_LENGTH:
        return {name: name for name in names}
    parts_of = {name: name.split("-") for name in names}
    counts = Counter(part for parts in parts_of.values() for part in set(parts))
    for part, times in counts.most_common():
        shorter = {name: [other for other in parts if other != part] for name, parts in parts_of.items()}
        long_enough = all(len(shorter[name]) >= min(2, len(parts)) for name, parts in parts_of.items())
        distinct = len({tuple(parts) for parts in shorter.values()}) == len(names)
        if part not in keep and times > 1 and long_enough and distinct:
            parts_of = shorter
    return {name: "-".join(parts) for name, parts in parts_of.items()}


def themed(svg: str) -> str:
    """Replace every colour of the light palette in an SVG with its CSS variable, and the font with the page's."""
    for name, value in LIGHT.items():
        svg = re.sub(re.escape(value), f"var(--{name})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
    return re.sub(r"(font: [^;\"]*?px) '[^;\"]*", r"\1 var(--sans)", svg)  # older matplotlib


def css_variables(palette: dict[str, str]) -> str:
    """Return a palette as CSS declarations."""
    return "".join(f"--{name}:{value};" for name, value in palette.items())


def percent(value: float) -> str:
    """Format a score in percent with one decimal: ``52.1``."""
    return f"{value:.1f}".replace("-", MINUS)


def points(value: float) -> str:
    """Format a difference in percentage points with its sign: ``+1.3``."""
    return f"{value:+.1f}".replace("-", MINUS)


def detectable(value: float | None) -> str:
    """Format a detectable difference; a dash if there is none."""
    return DASH if value is None else percent(value)


def count(value: int) -> str:
    """Format a count with separators: ``214,354``."""
    return f"{value:,}"


def number(value: int) -> str:
    """Format a small number as a word, for use in a sentence."""
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[value] if value < len(words) else count(value)


def size(num_parameters: int | None) -> str:
    """Format a number of parameters: ``212k``, ``4.3M``, ``98M``; a dash if unknown."""
    if num_parameters is None:
        return DASH
    if num_parameters < 1_000_000:
        return f"{num_parameters / 1e3:.0f}k"
    millions = num_parameters / 1e6
    return f"{millions:.1f}M" if millions < 10 else f"{millions:.0f}M"


def cost(kind: str, value: float) -> str:
    """Format a cost: ``tokens`` as a count, ``parameters``, ``flops`` (``1.3 TFLOPs``) or ``seconds`` (``41 ms``)."""
    if kind == "tokens":
        return count(round(value))
    if kind == "parameters":
        return size(round(value))
    if kind == "seconds":
        return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    for unit, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}FLOPs"
    return f"{value / 1e6:.3g} MFLOPs"


def p_value(p: float) -> str:
    """Format a p-value: ``p = 0.012``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(words: list[str]) -> str:
    """Join words for use in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
