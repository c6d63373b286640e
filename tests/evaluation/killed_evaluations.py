"""Run small evaluations in processes that kill themselves, or wait: python killed_evaluations.py TINY_LLM FOLDER.

Each evaluation is a fork of this process, so that torch is imported once. Prints how each process ended; what was
asked is appended to ``asked.jsonl`` in the evaluation's folder.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch
from small_evaluation import asked, encoder, load_model, write_images

from eyeswap.evaluation import benchmark, predictions, runner
from eyeswap.processes import Ranks, join

BATCH = 4  # most questions answered together; a batch of images has four times as many


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def num_asked(run_dir: Path) -> int:
    path = run_dir / "asked.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def wait_for_the_others(run_dir: Path) -> None:
    """Wait until all batches of the evaluation are taken, as many as one process alone took."""
    end = time.monotonic() + 60
    while num_asked(run_dir) < num_asked(run_dir.with_name("whole")):
        if time.monotonic() > end:
            raise RuntimeError("the other process left batches to this one")
        time.sleep(0.02)


def log(run_dir: Path, part) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "asked.jsonl").open("a") as stream:
        stream.write(json.dumps([question.key for question in part]) + "\n")


def evaluate(model, root: Path, run_dir: Path, moment: tuple[str, int] | None, workers: Ranks) -> None:
    """Evaluate, and kill this process at the given moment: what happens to the n-th file."""
    what, number = moment or ("never", 0)
    seen = {"answer": 0, "part": 0, "merge": 0}
    answer, write_table, replace = runner.answer, predictions.pq.write_table, Path.replace

    def logged_answer(generator, images, part):
        log(run_dir, part)
        if what == "slow" and workers.rank == 1:
            wait_for_the_others(run_dir)
        rows = answer(generator, images, part)
        seen["answer"] += 1
        if what == "answer" and seen["answer"] == number:
            kill()
        return rows

    def half_written(table, path):
        write_table(table, path)
        kind = "part" if "part-" in Path(path).name else "merge"
        seen[kind] += 1
        if what == f"{kind} half written" and seen[kind] == number:
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: len(content) // 2])
            kill()

    def renamed(self, target):
        done = what.endswith("renamed") and seen[what.split()[0]] == number and target.suffix == ".parquet"
        if done and what.endswith("not renamed"):
            kill()
        result = replace(self, target)
        if done:
            kill()
        return result

    runner.answer, predictions.pq.write_table, Path.replace = logged_answer, half_written, renamed
    runner.evaluate(model, encoder(root), asked(root), run_dir, batch=BATCH, workers=workers)


def fork(model, root: Path, run_dir: Path, moment=None, rank: int = 0, count: int = 1, port: int = 0) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        with join() as workers:
            evaluate(model, root, run_dir, moment, workers)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def run(model, root: Path, run_dir: Path, moment=None, count: int = 1) -> int:
    """Run one evaluation in ``count`` processes; if one dies the others are killed too. Return how it ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = {fork(model, root, run_dir, moment, rank, count, port) for rank in range(count)}
    ended = 0
    while children:
        pid, status = os.wait()
        children.discard(pid)
        if status and not ended:
            ended = os.waitstatus_to_exitcode(status)
            for other in children:
                os.kill(other, signal.SIGKILL)
    return ended


MOMENTS = [
    ("answer", 1),  # answered, nothing written
    ("part half written", 1),
    ("part not renamed", 2),
    ("part renamed", 2),
    ("part half written", 3),
    ("merge half written", 2),
    ("merge renamed", 2),
]


def main() -> None:
    torch.set_num_threads(1)
    llm, folder = Path(sys.argv[1]), Path(sys.argv[2])
    root = folder / "data"
    root.mkdir()
    write_images(root)
    model = load_model(llm)
    benchmark.MAX_NEW_TOKENS |= {"text": 6, "box": 6}  # untrained, it would ramble on

    def in_turn(name: str, *attempts: tuple[tuple[str, int] | None, int]) -> list[int]:
        return [run(model, root, folder / name, moment, count) for moment, count in attempts]

    ended = {
        "whole": in_turn("whole", (None, 1)),
        "killed": in_turn("killed", *((moment, 1) for moment in MOMENTS), (None, 1)),
        "two": in_turn("two", (None, 2)),
        "slow": in_turn("slow", (("slow", 0), 2)),
        "two-then-one": in_turn("two-then-one", (("part renamed", 2), 2), (None, 1)),
        "one-then-three": in_turn("one-then-three", (("part half written", 4), 1), (None, 3)),
        "partial": in_turn("partial", (("part renamed", 4), 1)),
    }
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
