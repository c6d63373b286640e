"""Write the footprints that come with the package: `python -m benchmarks.footprints`, a few minutes.

They cover the catalog in both wirings and the arms of all studies in ``studies/``. Existing footprints are kept, so
delete the file first after changing a network's code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.backbones.name import BackboneName
from eyeswap.files import read_json, write_text
from eyeswap.planning.count import measure
from eyeswap.planning.footprint import SHIPPED_FILE, footprint_key
from eyeswap.planning.spec import load_study
from eyeswap.progress import progress

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src" / "eyeswap" / "planning" / SHIPPED_FILE


def shipped_entries() -> dict[str, BackboneEntry]:
    """Return the catalog entries that have a footprint in the package, by the key of the footprint."""
    return {footprint_key(entry): entry for entry in _entries()}


def _entries() -> Iterator[BackboneEntry]:
    for entry in catalog.entries().values():
        yield entry
        yield entry.wired("as-published")
    for file in sorted((ROOT / "studies").rglob("*.yaml")):
        if "weights:" in file.read_text(encoding="utf-8"):
            continue  # its files have to be made first, and footprints do not depend on them
        study = load_study(file)
        for name, arm in study.arms.items():
            if BackboneName.parse(arm.backbone).kind == "catalog":
                wired = catalog.entry(arm.backbone).wired(study.wiring_of(name))
                yield wired.with_changes(tap=arm.tap, geometry=arm.geometry)


def main() -> None:
    """Count the missing footprints and write all of them."""
    entries = shipped_entries()
    footprints = read_json(TARGET) if TARGET.is_file() else {}
    with progress() as board:
        for key, entry in board.track(entries.items(), "counting backbones", len(entries)):
            if key not in footprints:
                footprints[key] = asdict(measure(entry.build_on_meta(), entry.geometry))
                _write({key: footprints[key] for key in sorted(entries) if key in footprints})
    _write({key: footprints[key] for key in sorted(entries)})


def _write(footprints: dict[str, dict[str, Any]]) -> None:
    lines = (f"{json.dumps(key)}: {json.dumps(plain)}" for key, plain in footprints.items())
    write_text(TARGET, "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
