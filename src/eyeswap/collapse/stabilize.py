"""The published cures of a collapsed localization as ready arms: a third connector layer, and a square canvas.

Each collapsed arm stands beside its twins, so that one study shows what each cure does. A canvas that is square and
of moderate size already is left as it is.
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
SQUARE_PX = 512  # the published cure of detectors, whose own canvases are 800 x 1333 and 1024 x 1024
_HEADER = """\
# Question   {question}
# Command    eyeswap study run {path}
# Time       eyeswap study plan {path}
# Expect     published: the third connector layer, a square canvas, or both brought collapsed detectors back by 3.5 to
#            9.7 points overall; written by `eyeswap collapse --write-stabilized`

"""


def stabilized(study: Mapping[str, Any], collapsed: Iterable[str]) -> dict[str, Any]:
    """Return a study of collapsed arms and their twins, as plain data without a name.

    Args:
        study: the study, as ``study.json`` has it.
        collapsed: names of its arms.

    Raises:
        SpecError: if there is none, or one is not of the study.
    """
    names = list(collapsed)
    if not names:
        raise SpecError(f"{study['name']}: no arm has collapsed, so there is nothing to stabilize")
    arms: dict[str, dict[str, str]] = {}
    for name in names:
        if name not in study["arms"]:
            raise SpecError(f"{study['name']}: has no arm {name}")
        own = {key: value for key, value in study["arms"][name].items() if value is not None}
        arms |= {name: own, **_twins(name, own, str(study["recipe"]["connector"]))}
    kept = {key: study[key] for key in ("recipe", "benchmarks", "seeds", "beyond_positions") if key in study}
    if study.get("subset") is not None:
        kept["subset"] = study["subset"]
    may_differ = list(dict.fromkeys([*study["may_differ"], "connector", "geometry"]))
    question = f"Does a third connector layer, or a square canvas, heal {', '.join(names)}?"
    return {"question": question, "arms": arms, "may_differ": may_differ, **kept}


def write_stabilized(path: Path, study: Mapping[str, Any], collapsed: Iterable[str]) -> list[str]:
    """Write the study of `stabilized` to a YAML file that `load_study` reads; return the names of its arms.

    Raises:
        SpecError: as `stabilized`, or if the file is there already.
    """
    if path.exists():
        raise SpecError(f"{path}: is there already; choose another name, or delete it")
    content = stabilized(study, collapsed)
    text = _HEADER.format(question=content["question"], path=path)
    write_text(path, text + yaml.safe_dump(content, sort_keys=False, width=118, allow_unicode=True))
    try:
        load_study(path)
    except SpecError:
        path.unlink()
        raise
    return list(content["arms"])


def _twins(name: str, own: Mapping[str, str], connector: str) -> dict[str, dict[str, str]]:
    """Return the cured twins of one arm."""
    square = f"corner-letterbox-{SQUARE_PX}"
    cures: dict[str, dict[str, str]] = {}
    if own.get("connector", connector) != CONNECTOR:
        cures["fused"] = {"connector": CONNECTOR}
    if not _is_moderate_square(own["backbone"], own.get("geometry")):
        cures[str(SQUARE_PX)] = {"geometry": square}
    if len(cures) == 2:
        cures[f"{SQUARE_PX}-fused"] = {"connector": CONNECTOR, "geometry": square}
    return {f"{name}-{cure}": {**own, **change} for cure, change in cures.items()}


def _is_moderate_square(backbone: str, geometry: str | None) -> bool:
    """Whether an arm's canvas is a square of at most `SQUARE_PX`; of encoders from outside, what the study says."""
    is_external = BackboneName.parse(backbone).kind != "catalog"
    own = DEFAULT_GEOMETRY if is_external else catalog.entry(backbone).geometry
    height, width = (own if geometry is None else own.override(geometry)).canvas
    return height == width <= SQUARE_PX
