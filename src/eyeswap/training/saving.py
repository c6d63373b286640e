"""Write a trained VLM in the Hugging Face layout, gathering a sharded one tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from eyeswap.files import write_json, write_safetensors
from eyeswap.processes import Ranks
from eyeswap.training.lora import merged, merged_name
from eyeswap.training.parallel import is_sharded, unsharded, unsharded_state
from eyeswap.vlm.model import VisionLanguageModel

_FILE_BYTES = 1 << 29  # a file's tensors are gathered in the first process before it is written


def save_trained(model: VisionLanguageModel, folder: Path, ranks: Ranks, *, include_backbone: bool = False) -> None:
    """Write a VLM's configuration and weights, adapters merged, from the first process; all processes call this.

    The weights of a sharded model go into files of 0.5 GB, each written as soon as its tensors are gathered. A model
    that transformers stores in another arrangement than it computes in, as some mixtures of experts, is gathered whole.
    """
    state, parts = model.state_dict(keep_vars=True), _parts(model)
    shapes = {
        name: torch.empty(state[first].shape, dtype=state[first].dtype, device="meta")
        for name, (first, *_) in parts.items()
    }
    if not is_sharded(model) or revert_weight_conversion(model, dict(shapes)).keys() != shapes.keys():
        whole = unsharded_state(model, keep=ranks.is_first)
        if ranks.is_first:
            model.save_pretrained(folder, include_backbone, state_dict=merged(whole))
        return
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern=SAFE_WEIGHTS_NAME.replace(".", "{suffix}."), max_shard_size=_FILE_BYTES
    )
    if ranks.is_first:
        model.save_pretrained(folder, include_backbone, state_dict={})  # an empty file of weights, which is replaced
        (folder / SAFE_WEIGHTS_NAME).unlink(missing_ok=True)
    for file, names in plan.filename_to_tensors.items():
        tensors = {}
        for name in names:
            gathered = {part: unsharded(state[part].detach()) for part in parts[name]}
            if ranks.is_first:
                tensors[name] = merged(gathered)[name].cpu().contiguous()
        if ranks.is_first:
            write_safetensors(folder / file, tensors, metadata={"format": "pt"})
    if ranks.is_first and plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / SAFE_WEIGHTS_INDEX_NAME, index)


def _parts(model: VisionLanguageModel) -> dict[str, list[str]]:
    """Return the tensors that each saved tensor is made of, the weight of the layer first, then its adapters.

    Of the names of a tied tensor only one is saved.
    """
    parts: dict[str, list[str]] = {}
    seen: set[int] = set()
    tied = getattr(model, "all_tied_weights_keys", {})
    state = model.state_dict(keep_vars=True)
    for name in sorted(state, key=lambda name: name in tied):  # keeps the order of all others
        if id(state[name]) not in seen:
            seen.add(id(state[name]))
            parts.setdefault(merged_name(name), []).append(name)
    return parts
