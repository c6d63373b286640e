"""Deterministic weights and images of the backbone goldens, and how their samples are compared.

The goldens hold numbers recorded from the official implementations run with weights drawn by this recipe:
one normal draw a state_dict entry, seeded by the crc32 of its key name, scaled by a rule that key name and
shape choose. A network with other internal names must draw under the official name and then map.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def recipe_tensor(key: str, shape: Sequence[int], dtype: str) -> Tensor:
    """Return the weight that the recipe draws for one state_dict entry, float32; counters and indices are zeros."""
    if dtype.startswith("int"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    noise = torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf in ("A_logs", "A_log", "A_b_log"):
        return recorded_logs(shape[-1]) + 0.1 * noise
    if leaf in ("Ds", "D", "D_b"):
        return 1 + 0.1 * noise
    if leaf == "dt_projs_bias" or key.endswith(("dt_proj.bias", "dt_proj_b.bias")):
        return -3 + 0.5 * noise
    if leaf == "running_mean":
        return 0.1 * noise
    if leaf == "running_var":
        return 1 + 0.1 * noise.abs()
    if leaf in ("pos_embed", "cls_token", "dist_token", "level_embed") or key.endswith("pos_embed.weight"):
        return 0.2 * noise
    if leaf in ("rel_pos_h", "rel_pos_w"):
        return 0.1 * noise
    if leaf == "relative_position_bias_table":
        return 0.5 * noise
    if leaf.startswith("gamma"):
        return 0.5 + 0.1 * noise
    if leaf == "alpha":
        return 1 + 0.1 * noise
    if len(shape) < 2:
        return 1 + 0.1 * noise if leaf == "weight" else 0.1 * noise
    gain = 2.0 if "x_proj" in key else 0.3 if ".cpe" in key else 1.0
    fan_in = shape[-1] if leaf in ("x_proj_weight", "dt_projs_weight") else math.prod(shape[1:])
    return noise * (gain / math.sqrt(fan_in))


def recorded_logs(count: int) -> Tensor:
    """Return log(1), ..., log(count) in float32, as the recording machine computed them.

    Its library rounded log(7) to the farther of its two neighbours, and others do so or not, by their processor.
    """
    logs = torch.log(torch.arange(1, count + 1, dtype=torch.float64)).float()
    logs[6:7] = 1.9459102153778076
    return logs


def recipe_state_dict(keys: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
    """Return the weights of a whole network from its key list ``{key: [shape, dtype]}``."""
    return {key: recipe_tensor(key, shape, dtype) for key, (shape, dtype) in keys.items()}


def formula_image(shape: Sequence[int], variant: int) -> Tensor:
    """Return the ``[B, 3, H, W]`` float32 input image of a golden, computed in float64."""
    b, c, i, j = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    if variant == 0:
        image = torch.sin(0.1 * (i + 1) * (c + 1) + b) + torch.cos(0.07 * (j + 1) + 0.5 * c)
        image = image + 0.5 * torch.sin(0.013 * i * j + c)
    else:
        image = torch.cos(0.053 * (i + 1) * (c + 2) - 0.3 * b) * torch.sin(0.11 * (j + 1) + c)
        image = image + 0.7 * torch.cos(0.0071 * (i - j) * (i + 2 * j) + 2 * c)
    return image.to(torch.float32)


def relative_l2(output: Tensor, sample: Mapping[str, float]) -> float:
    """Return the relative L2 distance of ``output`` from a golden sample ``{flat index: value}``."""
    flat = output.detach().double().contiguous().flatten()
    got = flat[torch.tensor([int(index) for index in sample])]
    want = torch.tensor(list(sample.values()), dtype=torch.float64)
    return float((got - want).norm() / want.norm())
