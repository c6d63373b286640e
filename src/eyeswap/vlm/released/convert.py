"""Conversion of released checkpoints from the authors' layout to ours, and back without loss.

Ours is a saved `VisionLanguageModel` in the wiring ``as-published``. Its folder has a ``released.json`` with the
authors' config and the order of their keys, so that an export equals what was imported. Tensors are copied one shard at
a time, never all in memory, and none is changed.
"""

from __future__ import annotations

import collections
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from eyeswap.backbones import catalog
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import CheckpointError, SpecError
from eyeswap.files import atomic_path, check_room, read_json, write_json, write_safetensors, write_text
from eyeswap.vlm.configuration import VisionLanguageConfig
from eyeswap.vlm.hub import find_model, one_line_errors
from eyeswap.vlm.llm import load_tokenizer
from eyeswap.vlm.model import VisionLanguageModel
from eyeswap.vlm.processor import VisionLanguageProcessor
from eyeswap.vlm.prompt import VicunaPrompt
from eyeswap.vlm.released.catalog import CONFIG_FILE, WEIGHTS_FILE
from eyeswap.vlm.released.layout import ReleasedConfig, our_key, read_config, read_payload, renamed

RECORD_FILE = "released.json"
_SHARD_BYTES = 5 * 10**9


def import_released(
    folder: Path,
    out: Path,
    llm: str | None = None,
    tap: str | None = None,
    geometry: str | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> VisionLanguageConfig:
    """Convert a released checkpoint to a saved VLM.

    Args:
        folder: contains ``config.json`` and ``checkpoints/latest-checkpoint.pt``.
        out: folder to write; must not exist.
        llm: folder or Hub name with the LLM's config and tokenizer; by default the one that the published config names.
            Its weights are not read.
        tap: tap to use instead of the published one.
        geometry: geometry to use instead of the published one.
        advance: called with the number of bytes written and their total.

    Raises:
        CheckpointError: if a file is missing, damaged or would run code, or a tensor is missing, unexpected, of the
            wrong shape, or not finite.
        EnvironmentProblem: if the disk has no room.
    """
    text, config = read_config(folder)
    payload = read_payload(folder / WEIGHTS_FILE)
    tensors = dict(renamed(payload))
    ours, processor = _describe(config, tensors, llm, tap, geometry)
    _check(tensors, ours, folder / WEIGHTS_FILE)
    if out.exists():
        raise CheckpointError(f"{out}: already exists; choose another folder, or delete it")
    check_room(out, sum(tensor.nbytes for tensor in tensors.values()))
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _write_weights(unfinished, tensors, advance)
        ours.save_pretrained(unfinished)
        _generation_config(processor.tokenizer).save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        keys = {part: list(payload[part]) for part in payload}
        write_json(unfinished / RECORD_FILE, {"config": text, "keys": keys})
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return ours


def export_released(folder: Path, out: Path) -> None:
    """Convert an imported checkpoint back to the released layout, with the same config, keys and tensors.

    Args:
        folder: a folder written by `import_released`.
        out: folder to write; must not contain a checkpoint.

    Raises:
        CheckpointError: if the folder was not imported, or lacks a tensor.
    """
    if not (folder / RECORD_FILE).is_file():
        raise CheckpointError(f"{folder}: has no {RECORD_FILE}; only an import can be exported")
    if (out / WEIGHTS_FILE).exists():
        raise CheckpointError(f"{out}: already holds a checkpoint; choose another folder")
    record = read_json(folder / RECORD_FILE)
    payload: dict[str, collections.OrderedDict[str, Tensor]] = {}
    file_of_tensor = _files_of_tensors(folder)
    for part, keys in record["keys"].items():
        payload[part] = collections.OrderedDict()
        for key in keys:
            name = our_key(part, key)
            if name not in file_of_tensor:
                raise CheckpointError(f"{folder}: no tensor {name}")
            with safe_open(file_of_tensor[name], "pt") as file:
                payload[part][key] = file.get_tensor(name)
    check_room(out, sum(tensor.nbytes for tensors in payload.values() for tensor in tensors.values()))
    with atomic_path(out / WEIGHTS_FILE) as temporary:
        torch.save({"model": payload}, temporary)
    write_text(out / CONFIG_FILE, record["config"])


def _describe(
    config: ReleasedConfig, tensors: Mapping[str, Tensor], llm: str | None, tap: str | None, geometry: str | None
) -> tuple[VisionLanguageConfig, VisionLanguageProcessor]:
    """Return our config and processor of a released checkpoint."""
    name = llm or config.llm
    if name is None:
        raise SpecError(f"unknown LLM {config.model.llm_backbone_id!r}: pass its folder or Hub name with --llm")
    tokenizer, _ = load_tokenizer(name, "vicuna")
    tokenizer.model_max_length = config.model.llm_max_length  # the published code truncates longer prompts
    with one_line_errors(f"llm {name}"):
        text_config = AutoConfig.from_pretrained(find_model(name))
    text_config.name_or_path = Path(name).name if Path(name).is_dir() else name
    embedding = tensors.get("llm.model.embed_tokens.weight")
    if embedding is not None:
        text_config.vocab_size, text_config.dtype = len(embedding), embedding.dtype  # <PAD> enlarged it
    text_config.pad_token_id = tokenizer.pad_token_id
    backbone = _backbone(config, tap, geometry)
    ours = VisionLanguageConfig(
        text_config=text_config,
        vision_width=backbone.network.embed_dim,
        connector=config.connector,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        dtype=text_config.dtype,
        architectures=[VisionLanguageModel.__name__],
        **{**VisionLanguageConfig.describe_backbone(backbone), "weights_sha256": None},
    )
    prompt = VicunaPrompt(end_of_answer=str(tokenizer.eos_token))
    return ours, VisionLanguageProcessor.of(tokenizer, prompt, backbone)


def _backbone(config: ReleasedConfig, tap: str | None, geometry: str | None) -> LoadedBackbone:
    """Return the published backbone without weights; only its name, tap and canvas matter here."""
    tap, geometry = tap or config.tap, geometry or config.geometry
    entry = (
        catalog.entry(config.model.vision_backbone_id).wired("as-published").with_changes(tap=tap, geometry=geometry)
    )
    with torch.device("meta"):
        network = entry.build()
    return LoadedBackbone(entry.name, entry.family, network, entry.geometry, "", "as-published", tap, entry)


def _check(tensors: Mapping[str, Tensor], config: VisionLanguageConfig, path: Path) -> None:
    """Check keys and shapes against the model that the config describes."""
    with torch.device("meta"):
        expected = VisionLanguageModel(config).state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(f"{path}: {kind} tensor {keys[0]}{more}")
    for key, tensor in expected.items():
        if tensors[key].shape != tensor.shape:
            shapes = f"{tuple(tensors[key].shape)}, expected {tuple(tensor.shape)}"
            raise CheckpointError(f"{path}: {key} has shape {shapes}; are backbone and LLM the right ones?")


def _write_weights(folder: Path, tensors: dict[str, Tensor], advance: Callable[[int, int], None]) -> None:
    """Write tensors in shards, laid out as transformers does."""
    plan = split_torch_state_dict_into_shards(tensors, max_shard_size=_SHARD_BYTES)
    total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
    for name, keys in plan.filename_to_tensors.items():
        shard = {key: tensors[key].contiguous() for key in keys}
        for key, tensor in shard.items():
            if not bool(tensor.isfinite().all()):
                raise CheckpointError(f"{key} has values that are not finite")
        write_safetensors(folder / name, shard, {"format": "pt"})
        done += sum(tensor.nbytes for tensor in shard.values())
        advance(done, total)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """Return for each tensor of a saved model the file that contains it."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    return files


def _generation_config(tokenizer: Any) -> GenerationConfig:
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
