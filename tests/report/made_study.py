"""A synthetic study on disk: real run folders, real parquet files, real images of many aspect ratios."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from eyeswap.backbones import catalog
from eyeswap.evaluation.frames import TEST_BOX_FRAMES
from eyeswap.evaluation.predictions import iou_column
from eyeswap.files import digest, write_json, write_text
from eyeswap.results.scores import write_scores

BENCHMARKS = {
    "vqav2": {
        "group": "vqa",
        "title": "VQAv2",
        "metric": "soft accuracy",
        "baseline": "most frequent answer",
    },
    "pope": {"group": "vqa", "title": "POPE", "metric": "accuracy", "baseline": "always yes"},
    "tallyqa": {"group": "vqa", "title": "TallyQA", "metric": "accuracy", "baseline": "most frequent count"},
    "refcoco": {
        "group": "localization",
        "title": "RefCOCO",
        "metric": "IoU >= 0.5",
        "baseline": "mean box",
        "iou_threshold": 0.5,
    },
    "ocid-ref": {
        "group": "localization",
        "title": "OCID-Ref",
        "metric": "IoU >= 0.25",
        "baseline": "mean box",
        "iou_threshold": 0.25,
    },
}
SKILL = {  # chance of a right answer in VQA and in localization
    "vit": (0.60, 0.22),
    "maxvit": (0.62, 0.20),
    "vmamba": (0.67, 0.60),
    "mambavision": (0.65, 0.41),
}
OTHERS = (0.62, 0.35)
SIZES = {"vit": 212_000, "maxvit": 431_000, "vmamba": 318_000, "mambavision": 655_000}
COLORS = {"red": (204, 62, 48), "green": (58, 140, 84), "blue": (52, 98, 190), "yellow": (222, 178, 50)}
SHAPES = [(320, 240), (240, 320), (256, 256), (480, 200), (180, 360), (300, 220)]
FIELDS = {
    "example_id": pa.string(), "image": pa.string(), "image_id": pa.string(), "subset": pa.string(),
    "kind": pa.string(), "question": pa.string(), "prompt": pa.string(), "answer": pa.string(),
    "truth": pa.string(), "score": pa.float64(), "box": pa.list_(pa.float64()), "iou": pa.float64(),
    "invalid": pa.bool_(), "margin": pa.float64(), "num_tokens": pa.int32(), "latency_s": pa.float64(),
    "baseline_score": pa.float64(), **{iou_column(frame): pa.float64() for frame in TEST_BOX_FRAMES},
}  # fmt: skip


def _number(arm):
    """Return a number of an arm that seeds what is drawn for it; the four known arms come first."""
    return list(SKILL).index(arm) if arm in SKILL else 10 + int(digest(arm)[:6], 16)


def draw_scenes(folder, num_images, generator):
    """Draw images of coloured discs; return for each its discs as (colour, box in 0..1)."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for number in range(num_images):
        width, height = SHAPES[number % len(SHAPES)]
        image = Image.new("RGB", (width, height), tuple(int(v) for v in generator.integers(205, 240, 3)))
        pen = ImageDraw.Draw(image)
        discs = []
        for color in generator.permutation(list(COLORS))[: generator.integers(2, 5)]:
            radius = int(generator.integers(18, 40))
            x = int(generator.integers(radius, width - radius))
            y = int(generator.integers(radius, height - radius))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLORS[color])
            box = [(x - radius) / width, (y - radius) / height, (x + radius) / width, (y + radius) / height]
            discs.append((str(color), [round(v, 4) for v in box]))
        image.save(folder / f"{number:04d}.png")
        scenes.append(discs)
    return scenes


def answer_row(benchmark, number, scene, skill, generator):
    """Return one prediction row of a benchmark by an arm with this chance of being right."""
    color, box = scene[number % len(scene)]
    right = bool(generator.random() < skill)
    row = {"box": None, "iou": None, "invalid": False, "margin": None, "subset": "val", "kind": benchmark}
    if benchmark == "vqav2":
        truth, question = [color] * 7 + ["dark " + color] * 3, "What is the colour of the disc on top?"
        row |= {"answer": color if right else "grey", "score": (0.9 if number % 7 else 1.0) if right else 0.0}
    elif benchmark == "pope":
        truth, question = "yes" if number % 2 else "no", f"Is there a {color} disc in the image?"
        wrong = "no" if truth == "yes" else "yes"
        row |= {"answer": truth if right else wrong, "score": float(right), "margin": generator.normal()}
        row["subset"] = ("adversarial", "popular", "random")[number % 3]
    elif benchmark == "tallyqa":
        truth, question = str(len(scene)), "How many discs are there?"
        row |= {"answer": truth if right else str(len(scene) + 1), "score": float(right)}
    else:
        truth, question = box, f"the {color} disc"
        shift = generator.normal(0, 0.008 if right else 0.25, 4)
        guess = np.clip(np.array(box) + shift, 0.0, 1.0)
        guess = [*np.minimum(guess[:2], guess[2:]), *np.maximum(guess[:2], guess[2:])]
        row |= {"answer": "[" + ", ".join(f"{v:.2f}" for v in guess) + "]", "score": float(right)}
        row |= {"box": [float(v) for v in guess], "iou": 0.8 if right else 0.1}
        if not right and generator.random() < 0.1:
            row |= {"answer": "the left one", "box": None, "iou": None, "invalid": True}
    return row | {iou_column(frame): row["iou"] for frame in TEST_BOX_FRAMES} | {
        "example_id": f"{benchmark}-{number}", "question": question, "prompt": question,
        "truth": json.dumps(truth), "num_tokens": 5, "latency_s": 0.01,
    }  # fmt: skip


def write_predictions(run, scenes, arm, seed, num_examples, benchmarks, skills):
    """Write all predictions of a run, with difficulty shared by the arms as in life."""
    for index, (name, about) in enumerate(BENCHMARKS.items()):
        if name not in benchmarks:
            continue
        shared = np.random.default_rng(index)
        own = np.random.default_rng([index, seed, _number(arm)])
        rows = []
        for number in range(num_examples):
            image = int(shared.integers(len(scenes)))
            ease = shared.uniform(-0.18, 0.18)
            skill = np.clip(skills[about["group"] == "localization"] + ease, 0, 1)
            baseline = float(shared.random() < (0.45 if about["group"] == "vqa" else 0.2))
            rows.append(
                answer_row(name, number, scenes[image], skill, own)
                | {"image": f"images/{image:04d}.png", "image_id": str(image), "baseline_score": baseline}
            )
        path = run / "predictions" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(FIELDS)), path)
    write_json(run / "predictions" / "benchmarks.json", {name: BENCHMARKS[name] for name in benchmarks})


def write_training(run, arm, seed, num_steps):
    generator = np.random.default_rng([seed, _number(arm)])
    steps = np.arange(1, num_steps + 1)
    floor = 1.15 - 0.6 * np.mean(SKILL.get(arm, OTHERS))
    losses = floor + 2.6 * np.exp(-steps / 45) + generator.normal(0, 0.05, num_steps)
    rows = [
        {
            "step": int(s),
            "loss": float(v),
            "lr": 1e-3,
            "grad_norm": 1.0,
            "tokens_per_s": 9e3,
            "elapsed_s": s * 0.2,
        }
        for s, v in zip(steps, losses, strict=True)
    ]
    write_text(run / "train.jsonl", "".join(json.dumps(row, default=float) + "\n" for row in rows))


def write_spec(run, arm, seed, recipe, backbone):
    size = SIZES.get(arm) or catalog.entry(backbone).num_parameters
    spec = {
        "study": "synthetic", "arm": arm, "seed": seed, "recipe": recipe, "recipe_digest": digest(recipe),
        "backbone": {
            "name": backbone, "family": catalog.entry(backbone).family, "weights_sha256": digest(arm), "embed_dim": 64,
            "num_parameters": size, "token_grid": [8, 8], "frozen_mode": "controlled",
            "geometry": catalog.entry(backbone).geometry.canonical(),
        },
        "data_digest": digest("data"), "order_digest": digest(["order", seed]),
        "llm": {"name": "digits-llm", "sha256": digest("llm")},
        "connector": {"kind": "gelu-mlp", "init_digest": digest(["connector", seed])},
        "benchmarks": list(BENCHMARKS), "may_differ": ["backbone"],
    }  # fmt: skip
    write_json(run / "spec.json", spec)
    write_json(run / "environment.json", {"packages": {"torch": "2.13.0"}, "cpu": "a CPU", "num_threads": 1})


def write_study(
    folder, arms=tuple(SKILL), seeds=(7,), unfinished=(), num_examples=120, num_images=60, benchmarks=tuple(BENCHMARKS),
    seed_sd=None, skills=None,
):  # fmt: skip
    """Write a whole study folder; arms in ``unfinished`` have trained but not been evaluated.

    ``arms`` are names, of which the backbones are digits-<name>, or map names to backbones of the catalog; ``skills``
    maps an arm, or an arm and a seed, to its chances of a right answer in VQA and localization.
    """
    skills = SKILL | (skills or {})
    arms = arms if isinstance(arms, dict) else {arm: f"digits-{arm}" for arm in arms}
    recipe = {
        "data": {"name": "digits", "seed": 0, "num_train_images": 4000}, "llm": "digits-llm",
        "connector": "gelu-mlp", "lr": 2e-3, "global_batch": 64, "micro_batch": None, "precision": "fp32",
    }  # fmt: skip
    study = {
        "name": "synthetic", "question": "Does the vision backbone decide how well a small VLM localizes?",
        "recipe": recipe, "arms": {arm: {"backbone": backbone} for arm, backbone in arms.items()},
        "may_differ": ["backbone"], "benchmarks": list(benchmarks), "seeds": list(seeds), "seed_sd": seed_sd,
    }  # fmt: skip
    write_json(folder / "study.json", study)
    scenes = draw_scenes(folder / "data" / "images", num_images, np.random.default_rng(0))
    for arm in arms:
        for seed in seeds:
            run = folder / arm / f"seed-{seed}"
            write_spec(run, arm, seed, recipe, arms[arm])
            write_training(run, arm, seed, 240)
            if arm not in unfinished:
                skill = skills.get((arm, seed), skills.get(arm, OTHERS))
                write_predictions(run, scenes, arm, seed, num_examples, benchmarks, skill)
                write_scores(run)
    return Path(folder)
