"""Two runs of one study that are broken on purpose: what `docs/audit.md` shows, and a test audits.

The first is sound. The second was trained on another batch order with a frozen backbone in train mode, reads
MambaVision before its mixers, never enlarges images, was asked for boxes in other signs than it learnt, and had its
record and its weights changed afterwards.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from eyeswap.files import digest
from eyeswap.runs.seal import write_seal

RECIPE = {"llm": "lmsys/vicuna-7b-v1.5", "connector": "gelu-mlp", "max_text_tokens": 2048}
GEOMETRY = {"strategy": "letterbox", "canvas": [224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
USE = {"num_images": 9, "num_measured": 9, "padding": 0.25, "cut": 0.0, "scale": 0.35, "own_scale": 0.35, "stretch": 1}
SOUND: dict[str, Any] = {
    "study": "broken",
    "arm": "vmamba",
    "seed": 7,
    "recipe": RECIPE,
    "recipe_digest": digest(RECIPE),
    "data_digest": digest("data"),
    "order_digest": digest("order"),
    "train_prompt": "USER: the region: {expression} ASSISTANT:",
    "test_prompt": "USER: the region: {expression} ASSISTANT:",
    "benchmarks": ["refcoco"],
    "may_differ": ["backbone"],
    "llm": {"name": RECIPE["llm"], "sha256": digest("llm")},
    "connector": {"kind": "gelu-mlp", "init_digest": digest("start")},
    "backbone": {
        "name": "vmamba-small-s2l15",
        "family": "vmamba",
        "weights_sha256": digest("vmamba"),
        "embed_dim": 384,
        "num_parameters": 31_276_224,
        "token_grid": [14, 14],
        "tap": [3, -1],
        "frozen_mode": "eval",
        "geometry": GEOMETRY,
    },
    "observed": {
        "matched": ["tokens"],
        "llm_positions": 4096,
        "tap_norm": "none",
        "parameters_run": 31_276_224,
        "canvas": {"training": USE, "refcoco": USE},
    },
}


def broken() -> dict[str, Any]:
    """Return the record of the second run."""
    spec = copy.deepcopy(SOUND)
    corner = USE | {"padding": 0.71, "scale": 1.0, "own_scale": 1.67}
    spec["arm"], spec["order_digest"] = "mambavision", digest("another order")
    spec["train_prompt"] = 'USER: the region: "{expression}". ASSISTANT:'
    spec["backbone"] |= {
        "name": "mambavision-s-s3",
        "family": "mambavision",
        "weights_sha256": digest("mambavision"),
        "num_parameters": 14_677_184,
        "token_grid": [50, 84],
        "tap": [1, "after"],
        "frozen_mode": "train",
    }
    spec["observed"] |= {"parameters_run": 14_677_184, "canvas": {"training": corner, "refcoco": corner}}
    return spec


def write_pair(folder: Path) -> Path:
    """Write both runs, then change the record and the weights of the second; return the study's folder."""
    for spec in (SOUND, broken()):
        run = folder / "broken" / str(spec["arm"]) / "seed-7"
        (run / "model").mkdir(parents=True)
        (run / "model" / "model.safetensors").write_bytes(b"weights of " + str(spec["arm"]).encode())
        environment = {"code_version": digest("code"), "packages": {"torch": "2.13"}}
        for name, content in (("spec", spec), ("environment", environment), ("scores", {})):
            (run / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        write_seal(run)
    (run / "spec.json").write_text(json.dumps(broken() | {"recipe_digest": digest("hoped for")}), encoding="utf-8")
    (run / "model" / "model.safetensors").write_bytes(b"weights of someone else")
    return folder / "broken"


if __name__ == "__main__":
    write_pair(Path(sys.argv[1]))
