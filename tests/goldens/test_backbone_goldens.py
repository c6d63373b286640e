"""Every network against numbers recorded from its official implementation, run with the same drawn weights.

Goldens are found by their content below EYESWAP_GOLDENS, or else below ``data/`` beside this file.
Tolerances (relative L2 of the 64 samples): 1e-9 in float64, which sees a LayerNorm epsilon; 2e-5 in
float32, and 5e-5 for Vim and Spatial-Mamba, whose official code itself differs from its float64 by up to 1.2e-5. The
float64 one needs AVX2, whose random draw made the weights; elsewhere draws differ in the last bit and 1e-5 is asked.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import adapters_mamba
import adapters_transformer
import pytest
import torch
from recipe import formula_image, recipe_state_dict, relative_l2
from torch import nn

from eyeswap.backbones.state import load_state

DATA = Path(__file__).parent / "data"
ROOT = Path(os.environ.get("EYESWAP_GOLDENS") or DATA)
FLOAT64_TOLERANCE = 1e-9 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 1e-5
FLOAT32_TOLERANCE = 2e-5
MAMBA_STACKS = ("vim", "spatial-mamba")  # two dozen scans and more in a row
STATE_SPACE = ("vmamba", "2dvmamba", "mambavision", *MAMBA_STACKS)


@functools.cache
def read(path: Path) -> Any:
    return json.loads(path.read_text())


@functools.cache
def all_files() -> list[Path]:
    return sorted(ROOT.rglob("*.json"))


def with_field(field: str) -> list[Path]:
    found = []
    for path in all_files():
        content = read(path)
        if isinstance(content, dict) and "model" in content and field in content:
            found.append(path)
    return found


def key_list(path: Path) -> dict[str, Any]:
    """Return the key list of a golden, which may lie in a file that it names, under a field or under several."""
    keys = read(path)["state_dict"]
    if isinstance(keys, dict):
        return keys
    file, field = re.search(r"(\S+\.json) ?(\w*)", keys).groups()
    places = (path.parent, *(found.parent for root in (ROOT, DATA) for found in root.rglob(file)))
    listed = read(next(place / file for place in places if (place / file).is_file()))
    fields = [field] if field else [*KEY_FIELDS, "backbone_only_extra"]
    return {key: value for field in fields for key, value in listed.get(field, {}).items()}


KEY_FIELDS = ("state_dict", "classifier_state_dict", "backbone_state_dict", "state_dict_backbone_part")


def build(golden: Mapping[str, Any], keys: Mapping[str, Any]) -> nn.Module:
    if golden["model"].startswith(STATE_SPACE):
        return adapters_mamba.build(golden)
    return adapters_transformer.build(golden, keys)


def test_goldens_are_found():
    assert len({read(path)["model"].split("-")[0] for path in with_field("out_sample")}) >= 5, ROOT


def forwards() -> list[Any]:
    """Return every golden of a forward; of those that lie here, all but the last tap of a network are extended."""
    paths = with_field("out_sample")
    last = {read(path)["model"]: path for path in paths}
    quick = set(last.values()) if ROOT == DATA else set(paths)
    return [pytest.param(path, id=path.stem, marks=() if path in quick else pytest.mark.extended) for path in paths]


@pytest.mark.parametrize("path", forwards())
def test_network_gives_the_recorded_tokens(path):
    golden, keys = read(path), key_list(path)
    network = build(golden, keys).eval()
    inner = getattr(network, "inner", network)
    if golden["model"].startswith("vim"):  # the list is of 224 pixels, the table of the golden's own size
        keys = keys | {"pos_embed": [list(inner.pos_embed.shape), "float32"]}
    load_state(inner, recipe_state_dict(keys), source=path.name)
    tolerance = 5e-5 if golden["model"].startswith(MAMBA_STACKS) else FLOAT32_TOLERANCE
    image = formula_image(golden["input"]["shape"], golden["input"]["formula_variant"])
    with torch.no_grad():
        single = network(image)
        if single.ndim == 2:
            single = single[:, None]  # logits as one token
        assert list(single.shape) in (golden["tokens_shape"], [1, *golden["tokens_shape"]])
        assert relative_l2(single, golden["out_sample"]["float32"]) < tolerance
        assert relative_l2(single, golden["out_sample"]["float64"]) < tolerance
        double = network.double()(image.double()).reshape(single.shape)
    assert relative_l2(double, golden["out_sample"]["float64"]) < FLOAT64_TOLERANCE
    near = {"abs": 100 * FLOAT64_TOLERANCE, "rel": FLOAT64_TOLERANCE}
    assert double.mean((0, 1)).tolist() == pytest.approx(golden["channel_mean"], **near)
    assert double.mean(2).flatten().tolist() == pytest.approx(golden["token_mean"], **near)
    assert double.std(correction=0).item() == pytest.approx(golden["out_std"], **near)
    assert double.abs().sum().item() == pytest.approx(golden["out_abs_sum"], rel=FLOAT64_TOLERANCE)


WHOLE = {  # the tap of the network that has all keys of a list
    "vmamba": "stage 4",
    "mambavision": "wrapper stage 5",
    "vim": "norm_f(after all blocks)",
    "spatial": "stage 4",
}


def listed_keys() -> list[Any]:
    """Return every key list: path, field, and the tap of the network that has all of its keys."""
    found = []
    for field in KEY_FIELDS:
        for path in with_field(field):
            if isinstance(read(path)[field], dict):
                family = read(path)["model"].split("-")[0]
                is_whole = field.startswith("classifier") and family != "mambavision"
                tap = "logits" if is_whole else WHOLE.get(family, "")
                found.append(pytest.param(path, field, tap, id=f"{path.stem}-{field}"))
    return found


@pytest.mark.parametrize(("path", "field", "tap"), listed_keys())
def test_official_keys_and_shapes_are_ours(path, field, tap):
    golden = read(path)
    official = {key.removeprefix("backbone."): shape for key, (shape, _) in golden[field].items()}
    same_model = [read(other) for other in with_field("kwargs") if read(other)["model"] == golden["model"]]
    with torch.device("meta"):
        network = build({**same_model[0], **golden, "tap": tap}, golden[field])
    inner = getattr(network, "inner", network)
    own = {key: list(value.shape) for key, value in inner.state_dict().items()}
    assert {key: official.get(key) for key in own} == own
    unneeded = [key for key in official if key not in own and not key.startswith(inner.beyond_tap)]
    assert [key for key in unneeded if not key.endswith(inner.recomputed)] == []
