"""Where a run's visual tokens come from: the cache where it fits, else the backbone at every step.

A frozen backbone gives an image the same tokens every time, so results do not depend on it. As published, no two draws
are alike, and nothing can be cached.
"""

from __future__ import annotations

from pathlib import Path

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.data.token_store import ImageDigests
from eyeswap.data.tokens import TokenCache, cache_tokens, open_store
from eyeswap.progress import Progress
from eyeswap.study.plan import PlannedRun
from eyeswap.study.study_data import StudyData
from eyeswap.training.parallel import Ranks

_GB = 1e9


def cached_tokens(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, folder: Path, board: Progress, ranks: Ranks
) -> TokenCache | None:
    """Return the cached tokens of all images of a run, or None if they are to be made when they are needed.

    Args:
        run: the run; its ``execution.cache_gb`` is the largest cache to write.
        data: its images.
        loaded: its backbone.
        folder: where caches live.
        board: shows progress.
        ranks: the processes; the first one computes what is missing.
    """
    if loaded.wiring == "as-published":
        return None
    images = data.images
    needed, most = missing_bytes(loaded, data, folder), run.study.execution.cache_gb * _GB
    if needed > most:
        board.console.print(
            f"{run.arm}: {needed / _GB:,.3g} GB of visual tokens, more than execution.cache_gb {most / _GB:g}; "
            "they are made when they are needed",
            highlight=False,
        )
        return None
    loaded.network.to(ranks.device)
    task = board.task(f"{run.arm}: visual tokens", len(images))
    with ranks.first_alone():
        return cache_tokens(folder, loaded, data.root, images, task.advance)


def missing_bytes(loaded: LoadedBackbone, data: StudyData, folder: Path) -> int:
    """Return the bytes that a cache of all images would have to grow by; no image is read."""
    rows, columns = loaded.token_grid
    store, digests = open_store(folder, loaded), ImageDigests(folder / "digests.jsonl")
    known = (digests.known(data.root / image) in store.rows for image in data.images) if len(store) else ()
    missing = len(data.images) - sum(known)
    return missing * rows * columns * loaded.network.embed_dim * 2
