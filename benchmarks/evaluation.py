"""Time the evaluation of a VLM against the reference suite's one-by-one method, and against itself without reuse.

    python benchmarks/evaluation.py                                # about 5 minutes on 2 CPU cores
    python benchmarks/evaluation.py --run runs/quickstart/vmamba/seed-7 --json evaluation.json
    python benchmarks/evaluation.py --shape 4096x32 --backbone vmamba-s --batch 64   # 7B, for a GPU; random weights

Three methods answer the same questions about the same image files, timed from file to answer:

- one by one: the reference suite's method. For every question the image is read and encoded again, the complete prompt
  is prefilled, and up to 128 tokens are generated, even if only the first token's probabilities are used.
- no reuse: our own batches, with each image encoded once, but every question prefills its image again.
- eyeswap: each image is prefilled once and shared by its questions; first-token questions generate nothing.

The last two are also timed with precomputed visual tokens, which isolates the LLM's part: a miniature encoder costs
about as much as the miniature LLM, a real one about a hundredth of a real LLM.

The numbers of questions per image are those of the real sets: 5.3 in VQA v2, 18 in POPE, 31.6 in GQA. Answers are
compared before anything is timed; candidates then take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from measure import Timing, interleave, print_table, write_results
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from eyeswap.backbones import catalog
from eyeswap.backbones.weights import LoadedBackbone, load_backbone
from eyeswap.data.digits.write import DigitsSize, write_digits
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.ask import model_folder
from eyeswap.evaluation.generate import Generation, Generator, Request
from eyeswap.processes import best_device
from eyeswap.shipped import llm_path
from eyeswap.tokens.cache import ImageEncoder
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm
from eyeswap.vlm.reading import Prompt, Reading, WholePrompts, spread

# title, benchmark that the questions come from, questions per image
WORKLOADS = (
    ("VQA v2: text", "vqav2", 5.3),
    ("GQA: text", "vqav2", 31.6),
    ("POPE: first token", "pope", 18.0),
    ("RefCOCO: boxes", "refcoco", 5.3),
)
# An LLM with random weights never ends an answer, so lengths are those of trained ones: "Yes" and EOS, or a box.
LENGTHS = {"text": 3, "choice": 2, "box": 26}


@dataclass(frozen=True)
class Work:
    """Questions about images; ``longest`` tokens are generated at most."""

    images: list[str]
    requests: list[list[Request]]
    longest: int

    @property
    def size(self) -> int:
        return sum(map(len, self.requests))


class OneByOne:
    """The reference suite's method: batch 1, transformers' own ``generate``."""

    def __init__(self, model: VisionLanguageModel, root: Path, ids: Generator) -> None:
        self.model, self.root, self.ids = model, root, ids

    def __call__(self, work: Work) -> list[list[Generation]]:
        return [
            [self.answer(image, request, work.longest) for request in requests]
            for image, requests in zip(work.images, work.requests, strict=True)
        ]

    @torch.inference_mode()
    def answer(self, image: str, request: Request, longest: int) -> Generation:
        inputs = self.model.processor(images=self.root / image, text=request.prompt).to(self.model.device)
        generated = self.model.generate(
            **inputs, max_new_tokens=longest, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        if request.choices:
            chances = generated.logits[0][0].float()[self.ids.choice_ids(request.choices)].softmax(-1).tolist()
            return Generation(request.choices[chances.index(max(chances))], tuple(chances), 1, 0.0)
        tokens = generated.sequences[0, inputs["input_ids"].shape[1] :]
        return Generation(self.model.tokenizer.decode(tokens, skip_special_tokens=True).strip(), None, len(tokens), 0.0)


class PaddedPrompts(WholePrompts):
    """Prompts read from their first token on, the shorter ones padded on the left."""

    def read(self, prompts: Sequence[Prompt]) -> Reading:
        device, longest = self._visual_tokens.device, max(len(prompt.ids) for prompt in prompts)
        rows = torch.tensor([prompt.row for prompt in prompts], device=device)
        gaps = torch.tensor([longest - len(prompt.ids) for prompt in prompts], device=device)
        padded = [prompt.ids + [0] * (longest - len(prompt.ids)) for prompt in prompts]
        num_visual = self._visual_tokens.shape[1]
        ids = torch.tensor([self._model.insert_visual(row, num_visual) for row in padded], device=device)
        embedded = self._model.embed(ids, self._visual_tokens[rows])  # [Q, N + T, D]
        slots = torch.arange(embedded.shape[1], device=device) - gaps[:, None]  # [Q, N + T]
        embedded = embedded.take_along_dim(slots.clamp(min=0)[..., None], dim=1)
        cache, mask = DynamicCache(), (slots >= 0).long()
        hidden, _ = self._decoder(cache, mask, slots.clamp(min=0), inputs_embeds=embedded)
        return Reading(
            hidden[:, -1], spread(cache, torch.arange(len(prompts), device=device), 16), mask, slots[:, -1] + 1
        )


class WithoutReuse(Generator):
    """Our batches and our decoding, but each question sends its whole sequence through the LLM."""

    def _reader(self, visual_tokens: Tensor, ids: Sequence[list[int]]) -> WholePrompts:
        return PaddedPrompts(self.model, self._decoder, visual_tokens)


class Precomputed:
    """Visual tokens that are computed once and kept."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.encoder, self.known = encoder, {}

    def read(self, images: Sequence[str]) -> tuple[list[Tensor], dict[str, str]]:
        lacking = [image for image in dict.fromkeys(images) if image not in self.known]
        self.known |= zip(lacking, self.encoder.read(lacking)[0], strict=True)
        return [self.known[image] for image in images], {}


class Batched:
    """A generator called as an evaluation calls it: with four batches of questions at a time."""

    def __init__(self, generator: Generator, encoder: ImageEncoder | Precomputed) -> None:
        self.generator, self.encoder = generator, encoder

    def __call__(self, work: Work) -> list[list[Generation]]:
        answers: list[list[Generation]] = []
        start = 0
        while start < len(work.images):
            end, questions = start, 0
            while end < len(work.images) and questions < 4 * self.generator.batch:
                questions += len(work.requests[end])
                end += 1
            tokens, unreadable = self.encoder.read(work.images[start:end])
            assert not unreadable
            answers += self.generator.answer(tokens, work.requests[start:end])
            start = end
        return answers


def build_model(run: Path | None, shape: str | None, backbone: str) -> VisionLanguageModel:
    """Return a trained run's VLM, the shipped parts with an untrained connector, or a random LLM of some shape."""
    if run is not None:
        return VisionLanguageModel.load(model_folder(run)).to(best_device())
    llm, tokenizer, prompt = load_llm(llm_path("digits-llm"))
    if shape is None:
        loaded = load_backbone(backbone)
    else:
        width, layers = map(int, shape.split("x"))
        config = LlamaConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 128),
            intermediate_size=width * 43 // 16, vocab_size=32_064, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        half = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        with torch.device(best_device()):
            llm = LlamaForCausalLM(config).to(half).eval()
        entry = catalog.entry(backbone)
        loaded = LoadedBackbone(backbone, entry.family, entry.build().freeze(), entry.geometry, "random")
    connector = build_connector("gelu-mlp", loaded.network.embed_dim, llm.config.hidden_size, seed=7)
    model = VisionLanguageModel.from_parts(llm, tokenizer, connector.to(llm.dtype), prompt, loaded)
    return model.to(best_device()).eval()


def make_work(
    model: VisionLanguageModel, root: Path, name: str, per_image: float, num_questions: int, cut: bool
) -> Work:
    """Return questions of a benchmark, with integer numbers per image whose mean is ``per_image``."""
    benchmark = get_benchmark(name)
    examples = benchmark.examples(root)
    images = sorted(
        {example.image for one in ("vqav2", "pope", "refcoco") for example in get_benchmark(one).examples(root)}
    )
    pool = cycle(examples)
    kind = benchmark.answer_kind
    longest = LENGTHS[kind] if cut else 128
    requests: list[list[Request]] = []
    asked = 0
    while asked < num_questions:
        count = round((len(requests) + 1) * per_image) - asked
        requests.append(
            [
                Request(model.prompt.question(benchmark.user_message(example)), benchmark.choices, longest)
                for example in islice(pool, count)
            ]
        )
        asked += count
    return Work(list(islice(cycle(images), len(requests))), requests, longest)


def check(title: str, first: list[list[Generation]], second: list[list[Generation]]) -> tuple[int, float]:
    """Return the number of differing texts and the largest difference in probability; print differing texts."""
    texts, chances = 0, 0.0
    for a, b in zip((one for row in first for one in row), (one for row in second for one in row), strict=True):
        if a.text != b.text:
            texts += 1
            print(f"{title}: {a.text!r} against {b.text!r}")
        if a.probabilities is not None and b.probabilities is not None:
            chances = max(chances, *(abs(x - y) for x, y in zip(a.probabilities, b.probabilities, strict=True)))
    return texts, chances


def main() -> None:
    """Compare answers, time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a trained run; by default the shipped LLM, connector untrained")
    parser.add_argument("--backbone", default="digits-vmamba", help="backbone of the VLM if no run is given")
    parser.add_argument("--shape", help="width x layers of a random LLM, such as 4096x32; answers then end by length")
    parser.add_argument("--questions", type=int, default=320, help="questions per workload")
    parser.add_argument("--batch", type=int, default=128, help="batch size")
    parser.add_argument("--rounds", type=int, default=5, help="counted calls of each candidate")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args()
    model = build_model(options.run, options.shape, options.backbone)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_digits(root, DigitsSize(0, 8, 120, 4))
        encoder = ImageEncoder(model.backbone.network.to(best_device()), model.processor.image_geometry, root)
        ours, plain, at_hand = Generator(model, options.batch), WithoutReuse(model, options.batch), Precomputed(encoder)
        candidates = {
            "one by one": OneByOne(model, root, ours),
            "no reuse": Batched(plain, encoder),
            "eyeswap": Batched(ours, encoder),
            "no reuse, LLM alone": Batched(plain, at_hand),
            "eyeswap, LLM alone": Batched(ours, at_hand),
        }
        for title, name, per_image in WORKLOADS:
            work = make_work(model, root, name, per_image, options.questions, options.shape is not None)
            answers = {candidate: call(work) for candidate, call in candidates.items()}  # warms up, too
            differing = {peer: check(title, answers[peer], answers["eyeswap"]) for peer in ("one by one", "no reuse")}
            calls = {candidate: partial(call, work) for candidate, call in candidates.items()}
            timings = interleave(calls, options.rounds, warmup=0)
            results.append(row(title, work, timings, differing))
            show(results[-1:])
    print()
    show(results)
    about = {"batch": options.batch, "rounds": options.rounds, "device": str(best_device()), "shape": options.shape}
    about |= {"run": None if options.run is None else options.run.name, "threads": torch.get_num_threads()}
    write_results(options.json, {"evaluation": results, **about})


def row(title: str, work: Work, timings: dict[str, Timing], differing: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """Return the results of a workload."""
    return {
        "workload": title,
        "questions": work.size,
        "images": len(work.images),
        "questions_an_image": work.size / len(work.images),
        "candidates": {
            name: {**timing.as_dict(), "questions_a_second": work.size / timing.median}
            for name, timing in timings.items()
        },
        "ratio_to_one_by_one": timings["one by one"].median / timings["eyeswap"].median,
        "ratio_to_no_reuse": timings["no reuse"].median / timings["eyeswap"].median,
        "ratio_to_no_reuse_llm_alone": timings["no reuse, LLM alone"].median / timings["eyeswap, LLM alone"].median,
        "differing_texts": {peer: texts for peer, (texts, _) in differing.items()},
        "largest_difference_of_a_probability": {peer: chance for peer, (_, chance) in differing.items()},
    }


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print one line per workload: questions per second (median; slowest over fastest round) and ratios."""
    columns = (
        "questions per second (spread)",
        "per image",
        "one by one",
        "no reuse",
        "eyeswap",
        "to one",
        "to no reuse",
    )
    rows = []
    for about in results:
        measured = (about["candidates"][name] for name in columns[2:5])
        speeds = [f"{one['questions_a_second']:.1f} ({one['spread']:.2f})" for one in measured]
        reuse = f"{about['ratio_to_no_reuse']:.2f}x, LLM {about['ratio_to_no_reuse_llm_alone']:.2f}x"
        one = f"{about['ratio_to_one_by_one']:.1f}x"
        rows.append((about["workload"], f"{about['questions_an_image']:.1f}", *speeds, one, reuse))
    print_table("evaluation, from image files to answers", columns, rows)
    for about in results:
        print(
            f"{about['workload']}: {about['questions']} questions, texts that differ: {about['differing_texts']}, ",
            end="",
        )
        print(f"largest difference in probability: {about['largest_difference_of_a_probability']}")


if __name__ == "__main__":
    main()
