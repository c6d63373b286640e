"""Where each arm looks on the examples of the page.

Everything else in a report comes from recorded answers. This needs the trained VLMs, so it is left out where they are
large or no longer there, as in an imported study.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eyeswap.errors import DataError, EyeswapError, RunError
from eyeswap.files import digest, read_json, sha256_of, write_json
from eyeswap.images import open_image
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.report.writers.examples import Looks, choose_examples
from eyeswap.runs.folder import StudyFolder

if TYPE_CHECKING:
    from eyeswap.probing.looks import Look
    from eyeswap.progress import Progress
    from eyeswap.vlm.model import VisionLanguageModel

SMALL_BYTES = 200_000_000  # of a VLM on disk; smaller ones are looked through without being asked
_MOST_CELLS = 32  # per side; finer grids are averaged, so that the page stays small


def are_small(results: StudyResults) -> bool:
    """Return whether all arms' models are still there and small, so that looking through them takes seconds."""
    folders = [arm.runs[0].files.model for arm in results.finished_arms]
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]
    return bool(folders) and all(0 < size < SMALL_BYTES for size in sizes)


def look_at_examples(results: StudyResults, board: Progress, *, trusts_code: bool = False) -> tuple[Looks, list[str]]:
    """Return where in the image each answer of the page's examples comes from, and why some arms have none.

    What was looked up is kept in the study's folder, so that only new runs and new examples cost time again.

    Args:
        results: the arms, whose first runs are looked at.
        board: shows progress.
        trusts_code: whether the code of encoders and connectors of one's own may run.
    """
    chosen, file = choose_examples(results), StudyFolder(results.folder).looks
    keys = {arm.name: _key(arm, chosen) for arm in results.finished_arms}
    kept = _read(file, len(chosen))
    missing = [arm for arm in results.finished_arms if keys[arm.name] not in kept]
    problems: list[str] = []
    if missing:
        task = board.task("looking where answers come from", len(missing) * len(chosen))
        for arm in missing:
            try:
                kept[keys[arm.name]] = _of_arm(results, arm, chosen, task.advance, trusts_code=trusts_code)
            except EyeswapError as error:
                problems.append(f"{arm.name}: not shown where its answers come from: {error}")
        write_json(file, {key: looks for key, looks in kept.items() if key in keys.values()})
    looks = {
        (name, *example): look
        for name, key in keys.items()
        for example, look in zip(chosen, kept.get(key, []), strict=False)
        if look is not None
    }
    return looks, problems


def _key(arm: Arm, chosen: list[tuple[int, int]]) -> str:
    """Identify a trained model and the examples that it is asked about."""
    seal = arm.runs[0].files.seal
    return digest([arm.name, sha256_of(seal) if seal.is_file() else None, chosen])


def _read(file: Path, num_examples: int) -> dict[str, list[dict[str, Any] | None]]:
    """Return what was looked up before; nothing of a file that is missing or damaged."""
    try:
        content = read_json(file)
    except DataError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: looks for key, looks in content.items() if isinstance(looks, list) and len(looks) == num_examples}


def _of_arm(
    results: StudyResults,
    arm: Arm,
    chosen: list[tuple[int, int]],
    advance: Callable[[int], None],
    *,
    trusts_code: bool,
) -> list[dict[str, Any] | None]:
    from eyeswap.probing.looks import look

    model = load_model(arm.runs[0].files.model, trusts_code=trusts_code)
    looks = []
    for position, row in chosen:
        table = arm.runs[0].predictions[position].table
        image, prompt, answer = (str(table.column(name)[row].as_py()) for name in ("image", "prompt", "answer"))
        found = look(model, open_image(results.data_root / image), prompt, answer)
        looks.append(None if found is None else _for_script(found))
        advance(1)
    return looks


def load_model(folder: Path, *, trusts_code: bool = False) -> VisionLanguageModel:
    """Load a trained VLM on a GPU, if there is one.

    Raises:
        RunError: if it is not there.
        CheckpointError: if one of its files does not fit.
        SpecError: if it has code that is not trusted.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not there; an imported study has no models")
    from eyeswap.processes import find_device
    from eyeswap.vlm.model import VisionLanguageModel

    model: VisionLanguageModel = VisionLanguageModel.load(folder, trust_remote_code=trusts_code)
    model.to(find_device(""))
    return model


def _for_script(look: Look) -> dict[str, Any]:
    rows, columns = look.grid
    weights = _coarser(np.array(look.weights).reshape(rows, columns))
    content = np.round(255 * weights / max(float(weights.max()), 1e-12)).astype(np.uint8)
    return {
        "measure": look.measure,
        "grid": list(content.shape),
        "canvas": [round(value, 4) for value in look.canvas],
        "weights": base64.b64encode(content.tobytes()).decode(),
    }


def _coarser(weights: np.ndarray) -> np.ndarray:
    """Average blocks of a grid until neither side has more than `_MOST_CELLS`; the last blocks may be smaller."""
    for axis in (0, 1):
        size = weights.shape[axis]
        block = -(-size // _MOST_CELLS)
        starts = np.arange(0, size, block)
        counts = np.diff([*starts, size])
        weights = np.add.reduceat(weights, starts, axis) / np.expand_dims(counts, 1 - axis)
    return weights
