"""Fill a token cache in groups of processes: python fill_together.py FOLDER; each process is a fork of this one.

In ``slow`` the second process waits, in its first batch, until the first one has taken all others. In ``killed`` it is
killed in the middle of a write, and one process goes on alone. Prints what every process that ended had to say.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.geometry import ImageGeometry
from eyeswap.processes import Ranks, join
from eyeswap.tokens import cache, store

NUM_IMAGES, BATCH = 23, 2
PATIENCE_S = 60


class Mean(VisionBackbone):
    """Mean colour of the image."""

    embed_dim = 3

    def feature_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values.mean((2, 3))[:, None, None]

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        return 1, 1


def write_images(root: Path) -> list[str]:
    """Write images, the last two of them identical, and name one more that is not there."""
    root.mkdir()
    for number in range(NUM_IMAGES):
        colour = min(number, NUM_IMAGES - 2) * 10
        Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(root / f"{number}.png")
    return [*(f"{number}.png" for number in range(NUM_IMAGES)), "gone.png"]


def fill(root: Path, images: list[str], folder: Path, fault: str, ranks: Ranks) -> None:
    """Fill the cache, with a fault in the second process, and write what this process has to say."""
    cache._BATCH = BATCH
    taken = 0
    read, write_at = cache.ImageEncoder.read, store._write_at

    def counted(self, paths):
        nonlocal taken
        taken += bool(paths)
        if fault == "slow" and ranks.rank == 1 and taken == 1:
            end = time.monotonic() + PATIENCE_S
            while not (folder / "drawn").exists() and time.monotonic() < end:
                time.sleep(0.01)
        return read(self, paths)

    def torn(path, offset, content):
        if fault == "killed" and ranks.rank == 1 and path.name == "index.txt":
            write_at(path, offset, content[:40])
            os.kill(os.getpid(), signal.SIGKILL)
        write_at(path, offset, content)

    def draw(self, items):
        yield from whole_draw(self, items)
        folder.mkdir(exist_ok=True)
        (folder / "drawn").touch()

    whole_draw = Ranks.draw
    cache.ImageEncoder.read, store._write_at, Ranks.draw = counted, torn, draw
    backbone = LoadedBackbone("mean", "own", Mean(), ImageGeometry(strategy="squash", canvas=(8, 8)), "w")
    shown: list[int] = []
    tokens = cache.cache_tokens(folder, backbone, root, images, shown.append, ranks)
    values = tokens[[image for image in images if image not in tokens.unreadable]][:, 0, 0].tolist()
    said = {"values": values, "unreadable": sorted(tokens.unreadable), "taken": taken, "shown": sum(shown)}
    (folder / f"said-{ranks.rank}.json").write_text(json.dumps(said))


def run(root: Path, images: list[str], folder: Path, fault: str, count: int) -> list[int]:
    """Fill the cache in ``count`` processes; if one dies the others are killed too. Return how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = {}
    for rank in range(count):
        child = os.fork()
        if child == 0:
            if count > 1:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), **address}
            try:
                with join() as ranks:
                    fill(root, images, folder, fault, ranks)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        children[child] = rank
    codes = [0] * count
    while children:
        pid, status = os.wait()
        codes[children.pop(pid)] = os.waitstatus_to_exitcode(status)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
    return codes


def main() -> None:
    """Run all groups."""
    torch.set_num_threads(1)
    top = Path(sys.argv[1])
    images = write_images(top / "images")
    ended = {
        "alone": run(top / "images", images, top / "alone", "", 1),
        "slow": run(top / "images", images, top / "slow", "slow", 2),
        "killed": run(top / "images", images, top / "killed", "killed", 2),
        "again": run(top / "images", images, top / "killed", "", 1),
    }
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
