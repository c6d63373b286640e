"""Studies of the repository as they load once the files exist that commands in their headers make."""

from __future__ import annotations

import re
from pathlib import Path

from eyeswap.planning.spec import Study, load_study


def load_shipped(path: Path, folder: Path) -> Study:
    """Load a copy of a study; weights that it names are empty files there."""
    copy, text = folder / path.name, path.read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    for weights in re.findall(r"weights: ([\w./-]+)", text):
        (folder / weights).parent.mkdir(exist_ok=True)
        (folder / weights).touch()
    return load_study(copy)
