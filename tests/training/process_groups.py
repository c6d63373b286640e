"""Train tiny VLMs in groups of processes: python process_groups.py TINY_LLM FOLDER.

Every process is a fork of this one, so that torch is imported once. Each run leaves ``train.jsonl``, its checkpoints,
``weights.safetensors`` and, from every process, ``said-<rank>.json`` in its folder.
"""

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tiny_run import fresh, recipe, tiny_data, train
from torch.distributed.tensor import DTensor

from eyeswap.backbones.weights import load_backbone
from eyeswap.data.instruction import Instruction
from eyeswap.errors import DataError, EyeswapError
from eyeswap.files import write_json, write_safetensors
from eyeswap.processes import join, this_process
from eyeswap.recipe import Execution, Recipe
from eyeswap.training import checkpoint, learner, saving
from eyeswap.training.batches import TrainingData
from eyeswap.training.collate import EncodedConversations
from eyeswap.training.lora import add_adapters
from eyeswap.training.parallel import unsharded_state
from eyeswap.training.saving import save_trained
from eyeswap.training.vision import LiveTokens
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.deferred import defer_llm
from eyeswap.vlm.model import VisionLanguageModel, load_llm

PATIENCE_S = 60
OFTEN = Execution(checkpoint_every_s=0, keep_checkpoints=2)
CALM = {"lr": 1e-3, "num_epochs": 1}
PACKS = {"tokens_per_pass": 48}

# Ways to train that every number of processes must agree on: recipe, execution.
WAYS: dict[str, tuple[Recipe, Execution]] = {
    "padded": (recipe(micro_batch=1, order="shuffled", **CALM), Execution()),
    "packed": (recipe(**CALM), Execution(**PACKS)),
    "packed and more": (
        recipe(order="shuffled", **CALM),
        Execution(**PACKS, reduce_once=True, recompute="elementwise"),
    ),
    "adapters": (recipe(lora_rank=2, **CALM), Execution(**PACKS)),
    "published": (recipe(micro_batch=2, loss="micro-batch-mean", published_gpus=2, **CALM), Execution()),
}
BF16 = (recipe(precision="bf16", **CALM), Execution(**PACKS, recompute=True))


def stop_at(stop: int, end: Callable[[], None]) -> Callable[[int, str], None]:
    def report(done: int, note: str) -> None:
        if done == stop:
            end()

    return report


def interrupt() -> None:
    raise KeyboardInterrupt


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def make_run(
    llm: Path, folder: Path, way: tuple[Recipe, Execution], report=lambda done, note: None, deferred: bool = False
) -> dict:
    """Train in this process, one of its group; return what it has to say. Deferred weights also leave ``model/``."""
    chosen, execution = way
    ranks = this_process()
    parts = defer_llm(llm, is_first=ranks.is_first) if deferred else None
    model = fresh(llm, parts and parts[:-1])
    if chosen.lora_rank is not None:
        add_adapters(model.llm, chosen.lora_rank, seed=3)
    told: list[str] = []
    options = {"execution": execution, "report": report, "warn": told.append, "weights": parts and parts[-1]}
    train(model, tiny_data(model, chosen), chosen, folder, "d", **options)
    if deferred:
        saving._FILE_BYTES = 20_000
        save_trained(model, folder / "model", ranks)
    return {"weights": model, "told": told}


def spoilt(llm: Path, folder: Path) -> dict:
    """Train until an image of NaN comes."""
    model = fresh(llm)
    data = tiny_data(model, recipe(order="shuffled"))
    (late, *_) = [row for row in set(data.order[3]) - set(data.order[:3].flatten()) if data.images[row] is not None]
    data.source.cache.tokens[late] = float("nan")
    train(model, data, recipe(order="shuffled", micro_batch=2), folder, "d", execution=OFTEN)
    return {}


def live(llm: Path, folder: Path, wiring: str) -> dict:
    """Train with a backbone that sees every image anew; look at it while it works."""
    seen: list[dict] = []

    class Watched(LiveTokens):
        def encode(self, read, vlm):
            parameters = list(vlm.backbone.network.parameters())
            seen.append(
                {
                    "training": vlm.backbone.network.training,
                    "sharded": any(isinstance(one, DTensor) for one in parameters),
                    "learns": any(one.requires_grad for one in parameters),
                    "rest sharded": all(isinstance(one, DTensor) for one in vlm.parameters()),
                }
            )
            return super().encode(read, vlm)

    language, tokenizer, prompt = load_llm(llm)
    backbone = load_backbone("digits-vmamba", wiring=wiring)
    before = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, 32, seed=1)
    model = VisionLanguageModel.from_parts(language, tokenizer, connector, prompt, backbone)
    chosen = recipe(micro_batch=1, max_steps=2, **CALM)
    records = [Instruction(f"id-{n}", f"{n}.png", ("What is it?", "1")) for n in range(8)]
    messages = [record.messages for record in records]
    source = Watched(backbone.geometry, folder.parent / "images", 64)
    encoded = EncodedConversations.of(messages, prompt, tokenizer, chosen.max_text_tokens)
    data = TrainingData.of(records, encoded, chosen, 7, source)
    train(model, data, chosen, folder, "d", execution=Execution(workers=0))
    after = backbone.network.state_dict()
    return {"weights": model, "seen": seen, "same": all(before[key].equal(after[key]) for key in before)}


def fork(folder: Path, work: Callable[[], dict], rank: int, count: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        if count:  # 0: alone, without a group
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), **address}
        with join():
            try:
                said = work()
            except EyeswapError as error:
                said = {"error": str(error)}
            model = said.pop("weights", None)
            weights = unsharded_state(model) if model is not None else {}
        write_json(folder / f"said-{rank}.json", said)
        if weights and rank == 0:
            write_safetensors(folder / "weights.safetensors", {key: one.clone() for key, one in weights.items()})
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            print(folder.name, repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def together(folder: Path, count: int, work: Callable[[], dict]) -> list[int]:
    """Do a work in ``count`` processes; return how each ended. None may hang."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [fork(folder, work, rank, count, port) for rank in range(max(1, count))]

    def give_up(*arguments: object) -> None:
        print(f"{folder.name}: no end after {PATIENCE_S} s", file=sys.stderr)
        for child in children:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> None:
    torch.set_num_threads(1)
    llm, top = Path(sys.argv[1]), Path(sys.argv[2])
    fresh(llm)  # imports once what is imported late
    ended: dict[str, list[list[int]]] = {}

    def run(name: str, *attempts: tuple[int, Callable[[Path], dict]]) -> None:
        ended[name] = [together(top / name, count, lambda work=work: work(top / name)) for count, work in attempts]

    def whole(way: tuple[Recipe, Execution]) -> Callable[[Path], dict]:
        return lambda folder: make_run(llm, folder, way)

    def cut(way: tuple[Recipe, Execution], stop: int, end: Callable[[], None]) -> Callable[[Path], dict]:
        return lambda folder: make_run(llm, folder, way, stop_at(stop, end))

    for name, way in WAYS.items():
        for count in (0, 2):
            run(f"{name} in {count}", (count, whole(way)))
    run("packed in 1", (1, whole(WAYS["packed"])))
    run("bf16 in 1", (1, whole(BF16)))
    run("bf16 in 2", (2, whole(BF16)))
    often = (WAYS["packed"][0], OFTEN)
    run("often in 2", (2, whole(often)))
    run("two then one", (2, cut(often, 3, interrupt)), (0, whole(often)))
    run("one then two", (0, cut(often, 3, interrupt)), (2, whole(often)))
    run("killed", (2, cut(often, 1, kill)), (2, cut(often, 3, kill)), (2, whole(often)))

    def truncated_first(folder: Path) -> dict:
        newest = max((folder / "checkpoints").glob("step-*"), default=None)
        if os.environ["RANK"] == "0" and newest is not None:
            file = max(newest.glob("*.safetensors"))
            file.write_bytes(file.read_bytes()[:-10])
        return make_run(llm, folder, often)

    run("truncated", (2, cut(often, 3, interrupt)), (2, truncated_first))

    def full(folder: Path) -> dict:
        def no_room(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        checkpoint.write_json = no_room  # where the first process writes alone
        return make_run(llm, folder, often)

    run("full", (2, cut(often, 2, interrupt)), (2, full))

    def failing(folder: Path) -> dict:
        def fail() -> None:
            if os.environ["RANK"] == "1":
                raise DataError("images/5.png: not a readable image")

        return make_run(llm, folder, often, stop_at(2, fail))

    run("failing", (2, failing))
    run("spoilt", (2, lambda folder: spoilt(llm, folder)))

    def chunked(folder: Path) -> dict:
        learner._LOGIT_BYTES = 10_000  # a few positions
        return make_run(llm, folder, WAYS["packed"])

    run("chunked in 2", (2, chunked))
    for name, wiring, count in (
        ("live in 0", "controlled", 0),
        ("live in 2", "controlled", 2),
        ("as published in 2", "as-published", 2),
    ):
        run(name, (count, lambda folder, wiring=wiring: live(llm, folder, wiring)))
    for way in ("packed", "adapters"):
        run(f"{way}, deferred", (2, lambda folder, way=way: make_run(llm, folder, WAYS[way], deferred=True)))
    halves = (WAYS["packed"][0], Execution(**PACKS, shard_over=2))
    run("two halves", (4, lambda folder: make_run(llm, folder, halves, deferred=True)))
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
