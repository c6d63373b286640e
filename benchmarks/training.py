"""Time training steps: conversations packed without padding, against padded micro-batches with full recomputation.

    python benchmarks/training.py                               # about 4 minutes on 2 CPU cores
    python benchmarks/training.py --shape 4096x32 --batch 128 --tokens-per-pass 6144 --recompute elementwise \\
        --backbone vmamba-small-s2l15                           # 7B and 196 tokens, on a GPU of 140 GB
        --backbone vitdet-b-maskrcnn --geometry corner-letterbox-512   # or 1,024 tokens
    torchrun --nproc-per-node 8 benchmarks/training.py --shape 4096x32 --batch 128    # FSDP2

Three methods take the same optimizer step over the same global batch, with one model with random weights:

- published: micro-batches of 16 conversations, divided by their number of words, padded to their longest, with every
  decoder layer recomputed in the backward pass.
- bucketed: passes of up to `--tokens-per-pass` positions, with conversations of similar length together, padded.
- packed: passes of up to as many tokens, without padding, with attention within each conversation.

Losses and gradient norms are compared before anything is timed; then the methods take turns, every round with another
global batch. Text lengths are drawn from a log-normal distribution with median 200 tokens and sigma 0.8, truncated at
2,048: short answers about an image and a few long descriptions, about 275 on average. That is an assumption about the
LLaVA-1.5 mix (most of its conversations merge a dozen short turns), not a measurement. Half of the text is answers.

Only real tokens are counted, including visual ones. MFU is the FLOPs of their forward and backward pass through the LLM
(6 per token and parameter, the head only where a token is predicted, plus attention), divided by the time and by this
machine's rate of matrix products, measured in the same run. The frozen backbone's time counts; its FLOPs do not.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from measure import Timing, interleave, print_table, write_results
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from eyeswap.backbones import catalog
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import EyeswapError
from eyeswap.processes import Ranks, join
from eyeswap.recipe import DigitsData, Execution, Recipe
from eyeswap.shipped import llm_path
from eyeswap.training.attention import packed_attention, recomputed
from eyeswap.training.batches import BatchLoader, BatchPlanner, Layout, TrainingData
from eyeswap.training.collate import EncodedConversations
from eyeswap.training.speed import pass_flops
from eyeswap.training.step import Trainer
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

MEDIAN_TOKENS, SIGMA, MOST_TOKENS = 200, 0.8, 2048
VOCABULARY = 32_064  # Vicuna's, with <PAD>


@dataclass(frozen=True)
class RandomTokens:
    """Visual tokens as a cache would return them."""

    decodes: ClassVar[bool] = False

    num_tokens: int
    width: int

    def read(self, images: Sequence[str]) -> Tensor:
        return torch.stack([seeded(image, self.num_tokens, self.width) for image in images])

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        return read


@dataclass(frozen=True)
class RandomPixels:
    """Pixels that the frozen backbone encodes in every step."""

    decodes: ClassVar[bool] = False

    num_tokens: int
    canvas: tuple[int, int]

    def read(self, images: Sequence[str]) -> Tensor:
        return torch.stack([seeded(image, 3, *self.canvas) for image in images])

    def encode(self, read: Tensor, vlm: VisionLanguageModel) -> Tensor:
        return vlm.encode(read)


def seeded(image: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(int(image)))


@dataclass
class Way:
    """One method of taking a step.

    Attributes:
        loader: makes the passes of a step.
        packs: whether conversations share a row.
        recompute: what decoder layers recompute.
        steps: numbers of its steps.
    """

    loader: BatchLoader
    packs: bool = False
    recompute: bool | Literal["elementwise"] = False
    steps: count[int] = field(default_factory=count)

    def passes(self, step: int, data: TrainingData, even: bool) -> list[Any]:
        """Return the passes of a step; ``even`` weights all tokens of the global batch equally."""
        passes = next(self.loader.steps(step))
        total = int(data.conversations.num_targets[data.order[step]].sum())
        if not even:
            return passes
        return [(replace(planned, share=1 / total if planned.share else 0.0), batch) for planned, batch in passes]


class Bench:
    """One model and the methods of training it."""

    def __init__(self, model: VisionLanguageModel, data: TrainingData, recipe: Recipe, ranks: Ranks) -> None:
        self.model, self.data, self.ranks = model.train(), data, ranks
        self.trainer = Trainer.of(model, data, recipe, ranks, 0, reduces_once=ranks.size == 1)
        self.positions: dict[str, list[int]] = {}
        self.peak_gib: dict[str, float] = {}

    def gradients(self, name: str, way: Way, step: int) -> dict[str, float]:
        """Compute the gradients of a step; return its loss and their norm."""
        packs = packed_attention(self.model.llm) if way.packs else contextlib.nullcontext()
        passes = way.passes(step, self.data, even=True)
        num_positions = sum(batch.input_ids.numel() for planned, batch in passes if planned.share)
        self.positions.setdefault(name, []).append(num_positions)
        with packs, recomputed(self.model.llm, way.recompute):
            row, *_ = self.trainer.step(step, passes, False)
        return row

    def compare(self, ways: dict[str, Way]) -> dict[str, dict[str, float]]:
        """Return loss and gradient norm of the first step by every method, with the same weights."""
        rows = {}
        for name, way in ways.items():
            rows[name] = self.gradients(name, way, 0)
            self.trainer.optimizer.zero_grad(set_to_none=True)
        return rows

    def call(self, name: str, way: Way) -> Callable[[], None]:
        """Return a function that takes the next step by a method."""

        def take() -> None:
            if self.ranks.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            self.gradients(name, way, next(way.steps))
            self.trainer.update()
            if self.ranks.device.type == "cuda":
                torch.cuda.synchronize()
                self.peak_gib[name] = max(self.peak_gib.get(name, 0.0), torch.cuda.max_memory_allocated() / 2**30)

        return take


def build_model(
    shape: str, backbone: str | None, geometry: str | None, device: torch.device
) -> tuple[VisionLanguageModel, RandomTokens | RandomPixels]:
    """Return a VLM with a random Llama of some shape, and the source of its visual tokens."""
    width, layers = map(int, shape.split("x"))
    _, tokenizer, prompt = load_llm(llm_path("digits-llm"))
    config = LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 128),
        intermediate_size=width * 43 // 16, vocab_size=VOCABULARY, max_position_embeddings=4096,
    )  # fmt: skip
    torch.manual_seed(0)
    with device:
        llm = LlamaForCausalLM(config)
    if backbone is None:
        source: RandomTokens | RandomPixels = RandomTokens(196, 384)
        loaded, vision_width = None, 384
    else:
        entry = catalog.entry(backbone).with_changes(geometry=geometry)
        network = entry.build().freeze()
        loaded = LoadedBackbone(entry.name, entry.family, network, entry.geometry, "random")
        rows, columns = loaded.token_grid
        source, vision_width = RandomPixels(rows * columns, entry.geometry.canvas), network.embed_dim
    connector = build_connector("gelu-mlp", vision_width, width, seed=7)
    return VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, loaded), source


def draw_data(source: RandomTokens | RandomPixels, steps: int, batch: int) -> TrainingData:
    """Return as many conversations of random text about random images as the steps need."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(MEDIAN_TOKENS), SIGMA, steps * batch)).astype(np.int64).clip(40, MOST_TOKENS)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(4096, VOCABULARY, starts[-1]).astype(np.int32)  # no special token
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    conversations = EncodedConversations(ids, within >= np.repeat(lengths // 2, lengths), starts)
    order = np.arange(steps * batch).reshape(steps, batch)
    images = [str(number) for number in range(len(lengths))]
    words = (lengths * 3 // 4).tolist()  # a word is about four thirds of a token
    return TrainingData(conversations, images, images, words, order, source)


def make_ways(
    data: TrainingData, recipe: Recipe, budget: int, again: bool | Literal["elementwise"], image_id: int, ranks: Ranks
) -> dict[str, Way]:
    """Return the methods by name."""

    def loader(chosen: Recipe, execution: Execution, packs: bool) -> BatchLoader:
        planner = BatchPlanner.of(data, chosen, execution, ranks.size, packs)
        return BatchLoader(data, Layout(image_id, True, 0, packs), planner, ranks.rank, 0)

    gpus = recipe.global_batch // (recipe.micro_batch or recipe.global_batch)
    published = recipe.model_copy(update={"loss": "micro-batch-mean", "published_gpus": gpus})
    within_budget = Execution(tokens_per_pass=budget)
    return {
        "published": Way(loader(published, Execution(), False), recompute=True),
        "bucketed": Way(loader(recipe, within_budget, False), recompute=again),
        "packed": Way(loader(recipe, within_budget, True), packs=True, recompute=again),
    }


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of large square matrix products, the best of ten."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(4):
            left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * side**3 / best


def needed_flops(model: VisionLanguageModel, data: TrainingData, step: int) -> float:
    """Return the FLOPs of a step's real tokens, forward and backward, with the head only at predicted tokens."""
    rows = data.order[step]
    lengths = [data.lengths[row] for row in rows]
    spared = sum(lengths) - int(data.conversations.num_targets[rows].sum())
    return pass_flops(model, lengths) - 6 * model.get_output_embeddings().weight.numel() * spared


def main() -> None:
    """Compare the methods, time them, and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="384x6", help="width x layers of the LLM; 4096x32 is Vicuna-7B")
    parser.add_argument("--backbone", help="encodes random pixels in every step; by default 196 tokens as from a cache")
    parser.add_argument("--geometry", help="geometry of the backbone, if not its own")
    parser.add_argument("--batch", type=int, default=32, help="conversations per global batch; the recipe's is 128")
    parser.add_argument("--micro-batch", type=int, default=16, help="conversations per pass of the published method")
    parser.add_argument("--tokens-per-pass", type=int, default=8192, help="token budget of the other methods")
    parser.add_argument(
        "--recompute", choices=("no", "elementwise", "yes"), default="no", help="in bucketed and packed passes"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="by default bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--rounds", type=int, default=3, help="counted steps of each method")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args()
    with join() as ranks:
        precision = options.precision or ("bf16" if ranks.device.type == "cuda" else "fp32")
        recipe = Recipe(
            data=DigitsData(), llm="random", global_batch=options.batch, micro_batch=options.micro_batch,
            precision=precision,
        )  # fmt: skip
        model, source = build_model(options.shape, options.backbone, options.geometry, ranks.device)
        data = draw_data(source, options.rounds + 1, options.batch)
        again: Any = {"no": False, "yes": True}.get(options.recompute, options.recompute)
        ways = make_ways(data, recipe, options.tokens_per_pass, again, model.config.image_token_id, ranks)
        bench = Bench(model, data, recipe, ranks)
        rows = bench.compare(ways)
        differs = {
            name: {key: abs(row[key] / rows["packed"][key] - 1) for key in ("loss", "grad_norm")}
            for name, row in rows.items()
        }
        rate = matmul_rate(torch.bfloat16 if precision == "bf16" else torch.float32, ranks.device)
        timings = interleave({name: bench.call(name, way) for name, way in ways.items()}, options.rounds)
    about = {
        "shape": options.shape, "backbone": options.backbone, "visual_tokens": source.num_tokens,
        "batch": options.batch, "precision": precision, "tokens_per_pass": options.tokens_per_pass,
        "recompute": options.recompute, "device": str(ranks.device), "processes": ranks.size,
        "threads": torch.get_num_threads(), "matmul_flops": rate,
        "differences_to_packed": differs,
    }  # fmt: skip
    results = [result(name, bench, timings, data, rate * ranks.size) for name in ways]
    if ranks.is_first:
        show(results, about)
        write_results(options.json, {"training": results, **about})


def result(name: str, bench: Bench, timings: dict[str, Timing], data: TrainingData, rate: float) -> dict[str, Any]:
    """Return the results of a method; the comparison and the warm-up used the first global batch."""
    steps = range(1, len(data.order))
    tokens = [sum(data.lengths[row] for row in data.order[step]) for step in steps]
    flops = [needed_flops(bench.model, data, step) for step in steps]
    seconds = timings[name].seconds
    speeds = sorted(count / took for count, took in zip(tokens, seconds, strict=True))
    shares = sorted(needed / took / rate for needed, took in zip(flops, seconds, strict=True))
    ratios = sorted(other / own for other, own in zip(timings["published"].seconds, seconds, strict=True))
    middle = len(seconds) // 2
    return {
        "way": name,
        "padding": sum(bench.positions[name][2:]) * bench.ranks.size / sum(tokens) - 1,
        "tokens_a_second": speeds[middle],
        "spread": speeds[-1] / speeds[0],
        "mfu": shares[middle],
        "ratio_to_published": ratios[middle],
        "peak_gib": bench.peak_gib.get(name),
        "seconds": seconds,
    }


def show(results: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    """Print one line per method."""
    columns = ("method", "padding", "real tokens per second (spread)", "MFU", "to published", "peak memory")
    rows = []
    for row in results:
        speed = f"{row['tokens_a_second']:,.0f} ({row['spread']:.2f})"
        memory = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.1f} GiB"
        ratio = f"{row['ratio_to_published']:.2f}x"
        rows.append((row["way"], f"{row['padding']:.0%}", speed, f"{row['mfu']:.0%}", ratio, memory))
    title = f"steps of {about['batch']} conversations, LLM {about['shape']}, {about['visual_tokens']} visual tokens"
    print_table(f"{title}, {about['precision']}", columns, rows)
    devices = f"{about['processes']} x {about['device']}"
    print(f"{devices}, {about['threads']} threads; matrix products at {about['matmul_flops'] / 1e12:.3f} TFLOP/s each")
    for name, off in about["differences_to_packed"].items():
        print(f"{name}: loss within {off['loss']:.1e} of packed, gradient norm within {off['grad_norm']:.1e}")


if __name__ == "__main__":
    try:
        main()
    except EyeswapError as error:
        raise SystemExit(f"error: {error}") from None
