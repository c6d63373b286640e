"""Write a study of the published remedies for collapsed localization: a third connector layer, and a square canvas.

Each collapsed arm is accompanied by arms with either remedy and with both, so that one study shows their effects. A
canvas that is already a square of moderate size is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from eyeswap.backbones import catalog
from eyeswap.backbones.name import BackboneName
from eyeswap.errors import SpecError
from eyeswap.files import write_text
from eyeswap.geometry import DEFAULT_GEOMETRY
from eyeswap.planning.spec import load_study

CONNECTOR = "fused-gelu-mlp"  # three layers
SQUARE_PX = 512  # the published remedy for detectors, whose own canvases are 800 x 1333 and 1024 x 1024
_HEADER = """\
# Question   {question}
# Command    eyeswap study run {path}
# Time       eyeswap study plan {path}
# Expect     published: a third connector layer, a square canvas, or both raised the overall score of collapsed
#            detectors by 3.5 to 9.7 points; written by `eyeswap collapse --write-stabilized`

"""


def stabilized(study: Mapping[str, Any], collapsed: Iterable[str]) -> dict[str, Any]:
    """Return a study of collapsed arms and their variants as the content of a study file.

    Args:
        study: content of ``study.json``.
        collapsed: names of the collapsed arms.

    Raises:
        SpecError: if no arm is given, or one does not belong to the study.
    """
    names = list(collapsed)
    if not names:
        raise SpecError(f"{study['name']}: no arm has collapsed, so there is nothing to stabilize")
    arms: dict[str, dict[str, str]] = {}
    for name in names:
        if name not in study["arms"]:
            raise SpecError(f"{study['name']}: no arm {name}")
        arm = {key: value for key, value in study["arms"][name].items() if value is not None}
        arms |= {name: arm, **_variants(name, arm, str(study["recipe"]["connector"]))}
    kept = {key: study[key] for key in ("recipe", "benchmarks", "seeds", "beyond_positions") if key in study}
    if study.get("subset") is not None:
        kept["subset"] = study["subset"]
    may_differ = list(dict.fromkeys([*study["may_differ"], "connector", "geometry"]))
    question = f"Does a third connector layer, or a square canvas, restore localization in {', '.join(names)}?"
    return {"question": question, "arms": arms, "may_differ": may_differ, **kept}


def write_stabilized(path: Path, study: Mapping[str, Any], collapsed: Iterable[str]) -> list[str]:
    """Write the study of `stabilized` to a study file; return the names of its arms.

    Raises:
        SpecError: as `stabilized`, or if the file already exists.
    """
    if path.exists():
        raise SpecError(f"{path}: already exists; choose another path, or delete it")
    content = stabilized(study, collapsed)
    text = _HEADER.format(question=content["question"], path=path)
    write_text(path, text + yaml.safe_dump(content, sort_keys=False, width=118, allow_unicode=True))
    try:
        load_study(path)
    except SpecError:
        path.unlink()
        raise
    return list(content["arms"])


def _variants(name: str, arm: Mapping[str, str], connector: str) -> dict[str, dict[str, str]]:
    """Return the variants of one arm with the remedies applied."""
    square = f"corner-letterbox-{SQUARE_PX}"
    remedies: dict[str, dict[str, str]] = {}
    if arm.get("connector", connector) != CONNECTOR:
        remedies["fused"] = {"connector": CONNECTOR}
    if not _is_moderate_square(arm["backbone"], arm.get("geometry")):
        remedies[str(SQUARE_PX)] = {"geometry": square}
    if len(remedies) == 2:
        remedies[f"{SQUARE_PX}-fused"] = {"connector": CONNECTOR, "geometry": square}
    return {f"{name}-{suffix}": {**arm, **changes} for suffix, changes in remedies.items()}


def _is_moderate_square(backbone: str, geometry: str | None) -> bool:
    """Whether an arm's canvas is a square of at most `SQUARE_PX`; outside the catalog, according to the study."""
    is_external = BackboneName.parse(backbone).kind != "catalog"
    default = DEFAULT_GEOMETRY if is_external else catalog.entry(backbone).geometry
    height, width = (default if geometry is None else default.override(geometry)).canvas
    return height == width <= SQUARE_PX
