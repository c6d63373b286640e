"""Write the footprints that come with the package: `python -m benchmarks.footprints`, some minutes.

They are those of the catalog in both wirings, and of the arms of all studies in ``studies/``. Footprints that are known
already are kept, so after a change of a network's code delete the file first.
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
    """Return what has a footprint in the package, by the key of the footprint."""
    return {footprint_key(entry): entry for entry in _entries()}


def _entries() -> Iterator[BackboneEntry]:
    for entry in catalog.entries().values():
        yield entry
        yield entry.wired("as-published")
    for file in sorted((ROOT / "studies").rglob("*.yaml")):
        study = load_study(file)
        for name, arm in study.arms.items():
            if BackboneName.parse(arm.backbone).kind == "catalog":
                wired = catalog.entry(arm.backbone).wired(study.wiring_of(name))
                yield wired.with_changes(tap=arm.tap, geometry=arm.geometry)


def main() -> None:
    """Count what is not known yet and write everything."""
    entries = shipped_entries()
    known = read_json(TARGET) if TARGET.is_file() else {}
    with progress() as board:
        for key, entry in board.track(entries.items(), "count the backbones", len(entries)):
            if key not in known:
                known[key] = asdict(measure(entry.build_on_meta(), entry.geometry))
                _write({key: known[key] for key in sorted(entries) if key in known})
    _write({key: known[key] for key in sorted(entries)})


def _write(footprints: dict[str, dict[str, Any]]) -> None:
    lines = (f"{json.dumps(key)}: {json.dumps(plain)}" for key, plain in footprints.items())
    write_text(TARGET, "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
