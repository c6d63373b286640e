"""Several processes fill one token cache: each image once, more by the quick ones, nothing lost by a kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fill_together import BATCH, NUM_IMAGES

from eyeswap.tokens.store import TokenStore


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    folder = tmp_path_factory.mktemp("filled")
    program = Path(__file__).with_name("fill_together.py")
    done = subprocess.run([sys.executable, str(program), str(folder)], stdout=subprocess.PIPE, check=True)
    return folder, json.loads(done.stdout)


def said(folder: Path, rank: int = 0) -> dict:
    return json.loads((folder / f"said-{rank}.json").read_text())


def the_store(folder: Path) -> TokenStore:
    return TokenStore(next(path for path in folder.iterdir() if path.is_dir()))


def test_the_quick_process_takes_what_the_slow_one_leaves(filled):
    folder, ended = filled
    assert ended["slow"] == [0, 0]
    first, second = said(folder / "slow", 0), said(folder / "slow", 1)
    num_batches = -(-(NUM_IMAGES + 1) // BATCH)
    assert second["taken"] == 1
    assert first["taken"] >= num_batches - 1


def test_all_processes_see_what_one_alone_would_have_made(filled):
    folder, _ = filled
    alone = said(folder / "alone")
    assert len(alone["values"]) == NUM_IMAGES
    for rank in (0, 1):
        together = said(folder / "slow", rank)
        assert together["values"] == alone["values"]
        assert together["unreadable"] == alone["unreadable"] == ["gone.png"]
        assert together["shown"] == alone["shown"] == NUM_IMAGES + 1
    store = the_store(folder / "slow")
    assert len(store) == len(store.rows) == NUM_IMAGES - 1  # two files are identical
    store.check(range(len(store)))


def test_a_process_killed_in_the_middle_of_a_write_costs_its_batch_alone(filled):
    folder, ended = filled
    assert ended["killed"][1] == -9
    assert ended["again"] == [0]
    assert said(folder / "killed")["values"] == said(folder / "alone")["values"]
    store = the_store(folder / "killed")
    assert len(store) == len(store.rows) == NUM_IMAGES - 1
    store.check(range(len(store)))
