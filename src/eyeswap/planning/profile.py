"""Latency, memory and throughput of a VLM's stages by image resolution, on this machine.

Times do not depend on the weights, so networks are randomly initialized and nothing is downloaded. Four stages are
timed for one square image: vision (pixels to tokens), connector, prefill (visual tokens and a prompt through the LLM)
and one decoding step. The default grid is that of the paper's Figure 4: ten backbones, 224 to 6,144 pixels, batch 1.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from eyeswap.backbones import catalog
from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.measure import peak_bytes, reset_peak
from eyeswap.connector_name import ConnectorName
from eyeswap.errors import DataError, ShapeError, SpecError
from eyeswap.files import write_text
from eyeswap.planning.spec import Study
from eyeswap.recipe import Recipe
from eyeswap.shipped import llm_source
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.decoder import cache_argument, has_attention_alone
from eyeswap.vlm.hub import find_model, one_line_errors
from eyeswap.vlm.llm import num_positions

IN_FIGURE = {
    "vmamba-tiny-s1l8": "VMamba-T",
    "vmamba-small-s2l15": "VMamba-S",
    "vmamba-base-s2l15": "VMamba-B",
    "in21k-vit-t": "ViT-T",
    "in21k-vit-s": "ViT-S",
    "in21k-vit-b": "ViT-B",
    "in21k-vit-l": "ViT-L",
    "vitdet-b-maskrcnn": "ViTDet-B",
    "vitdet-l-maskrcnn": "ViTDet-L",
    "vitdet-h-maskrcnn": "ViTDet-H",
}  # catalog name -> name in Figure 4
BACKBONES = tuple(IN_FIGURE)
SIDES = (224, 256, 384, 512, 768, 1024, 1280, 1536, 2048, 3072, 4096, 5120, 6144)
CPU_BACKBONES = ("vmamba-tiny-s1l8", "in21k-vit-t", "in21k-vit-s", "vitdet-b-maskrcnn")  # these finish within minutes
CPU_SIDES = SIDES[:6]
MOST_REPEATS = 20
DEFAULT_CONNECTOR = str(Recipe.model_fields["connector"].default)


@dataclass(frozen=True)
class Cell:
    """One backbone at one resolution; seconds are medians over repeats, None if the measurement did not run.

    Attributes:
        backbone: catalog name.
        side_px: side of the square image.
        tokens: visual tokens that the LLM sees.
        vision_s: pixels to tokens, batch 1.
        connector_s: tokens to LLM embeddings.
        prefill_s: visual tokens and prompt through the LLM.
        decode_s: one further token.
        end_to_end_s: vision, connector and prefill: the time to the first token.
        images_per_s: vision alone, at the configured batch size.
        peak_bytes: peak memory of the measurement; on a CPU that of the whole process.
        beyond_positions: whether the sequence is longer than the LLM's number of positions.
        problem: why the cell is empty.
        connector: name of the connector.
    """

    backbone: str
    side_px: int
    tokens: int | None = None
    vision_s: float | None = None
    connector_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    end_to_end_s: float | None = None
    images_per_s: float | None = None
    peak_bytes: int | None = None
    beyond_positions: bool = False
    problem: str = ""
    connector: str = DEFAULT_CONNECTOR

    @property
    def title(self) -> str:
        """The backbone, and what the connector does to the tokens."""
        steps = ConnectorName.parse(self.connector).changes_tokens
        return f"{self.backbone}, {steps}" if steps else self.backbone


@dataclass(frozen=True)
class Setting:
    """The settings of the measurements.

    Attributes:
        device: device to run on.
        dtype: arithmetic of all stages.
        batch: batch size of the throughput measurement.
        prompt_tokens: text tokens after the visual ones.
        longest_s: once a cell takes longer, larger images of the same backbone are skipped.
    """

    device: torch.device
    dtype: torch.dtype
    batch: int = 8
    prompt_tokens: int = 64
    longest_s: float = 20.0


def study_grid(study: Study) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the backbones of a study's arms, and the sides of square images as large as their canvases.

    Raises:
        SpecError: if no arm has a backbone from the catalog; others cannot be built for arbitrary sizes.
    """
    known = set(catalog.names())
    arms = {name: arm for name, arm in study.arms.items() if arm.backbone in known}
    if not arms:
        raise SpecError(f"{study.name}: no arm has a backbone from the catalog; only those can be profiled")
    canvases = [
        catalog.entry(arm.backbone).with_changes(geometry=arm.geometry).geometry.canvas for arm in arms.values()
    ]
    sides = sorted({32 * round(math.sqrt(height * width) / 32) for height, width in canvases})
    return tuple(dict.fromkeys(arm.backbone for arm in arms.values())), tuple(sides)


def study_connectors(study: Study) -> dict[str, tuple[str, ...]]:
    """Return the connectors behind each backbone of a study's arms."""
    found: dict[str, dict[str, None]] = {}
    for name, arm in study.arms.items():
        found.setdefault(arm.backbone, {})[study.connector_of(name)] = None
    return {backbone: tuple(connectors) for backbone, connectors in found.items()}


def build_llm(name: str, setting: Setting) -> Any:
    """Build an LLM of the named architecture with random weights.

    Args:
        name: ``vicuna-7b``, ``digits-llm``, a folder or a Hub name (only its config is read).
        setting: device and arithmetic.

    Raises:
        CheckpointError: if there is no such model.
    """
    if name == "vicuna-7b":
        config: Any = LlamaConfig(vocab_size=32064, max_position_embeddings=4096)
    else:
        with one_line_errors(f"llm {name}"):
            config = AutoConfig.from_pretrained(find_model(llm_source(name)))
    with torch.device(setting.device):
        return AutoModelForCausalLM.from_config(config, dtype=setting.dtype).eval().requires_grad_(False)


def profile(
    names: Sequence[str],
    sides: Sequence[int],
    llm: Any,
    setting: Setting,
    connectors: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator[Cell]:
    """Measure every backbone at every resolution, smallest images first.

    Args:
        names: catalog names.
        sides: of square images, pixels.
        llm: see `build_llm`.
        setting: what is measured and how long at most.
        connectors: backbone to its connectors; the recipe's default where it has none here.

    Raises:
        SpecError: if a backbone or connector does not exist, before anything is measured.
    """
    entries = [catalog.entry(name) for name in names]
    pairs = [(entry, kind) for entry in entries for kind in connectors.get(entry.name, (DEFAULT_CONNECTOR,))]
    for _, kind in pairs:
        ConnectorName.parse(kind)
    for entry, kind in pairs:
        with torch.device(setting.device):
            network = entry.build().to(setting.dtype).freeze()
        took = 0.0
        for side in sorted(sides):
            cell = Cell(entry.name, side, connector=kind)
            if took > setting.longest_s:
                skipped = f"skipped: a smaller image took over {setting.longest_s:g} s"
                yield dataclasses.replace(cell, problem=skipped)
                continue
            started = time.perf_counter()
            try:
                cell = _measure(cell, network, llm, setting)
            except torch.OutOfMemoryError:
                cell = dataclasses.replace(cell, problem="out of memory")
            except (ShapeError, RuntimeError) as problem:
                cell = dataclasses.replace(cell, problem=str(problem).splitlines()[0])
            took = float("inf") if cell.problem == "out of memory" else time.perf_counter() - started
            yield cell


@torch.inference_mode()
def _measure(cell: Cell, network: VisionBackbone, llm: Any, setting: Setting) -> Cell:
    placement: Any = {"device": setting.device, "dtype": setting.dtype}
    grid, width = network.token_grid(cell.side_px, cell.side_px), llm.config.hidden_size
    connector = build_connector(cell.connector, network.embed_dim, width, seed=0, grid=grid).to(**placement)
    image = torch.randn(1, 3, cell.side_px, cell.side_px, **placement)
    reset_peak(setting.device.type == "cuda")
    tokens = network(image)  # [1, N, d]
    vision = _median_s(lambda: network(image), setting)
    visual = connector(tokens)  # [1, M, D]
    prompt = torch.randn(1, setting.prompt_tokens, visual.shape[2], **placement)
    sequence = torch.cat([visual, prompt], dim=1)  # [1, M + T, D]
    step = torch.zeros(1, 1, dtype=torch.long, device=setting.device)

    def prefill() -> Any:
        return llm(inputs_embeds=sequence, use_cache=True, logits_to_keep=1)

    def decode() -> Tensor:
        logits: Tensor = llm(input_ids=step, use_cache=True, **{cache_argument(llm): cache}).logits
        if is_croppable:
            cache.crop(-1)  # every repeat decodes at the same position
        return logits

    connecting, prefilling = _median_s(lambda: connector(tokens), setting), _median_s(prefill, setting)
    cache = prefill()[cache_argument(llm)]
    is_croppable = has_attention_alone(llm) and not any(cache.is_sliding)
    decoding = _median_s(decode, setting)
    batched = image.expand(setting.batch, -1, -1, -1).contiguous()
    throughput = setting.batch / _median_s(lambda: network(batched), setting)
    limit = num_positions(llm.config)
    return dataclasses.replace(
        cell, tokens=visual.shape[1], vision_s=vision, connector_s=connecting, prefill_s=prefilling,
        decode_s=decoding, end_to_end_s=vision + connecting + prefilling, images_per_s=throughput,
        peak_bytes=peak_bytes(setting.device.type == "cuda"),
        beyond_positions=limit is not None and sequence.shape[1] > limit,
    )  # fmt: skip


def _median_s(call: Callable[[], object], setting: Setting) -> float:
    """Return the median seconds of a call after one warm-up; long calls are repeated less often."""
    times: list[float] = []
    call()
    while not times or (sum(times) < setting.longest_s / 20 and len(times) < MOST_REPEATS):
        _wait(setting)
        started = time.perf_counter()
        call()
        _wait(setting)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def _wait(setting: Setting) -> None:
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)


_FIELDS = tuple(field.name for field in dataclasses.fields(Cell))  # older files have no connector


def write_csv(path: Path, cells: Sequence[Cell]) -> None:
    """Write the cells as CSV, one row per backbone and resolution."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(cell) for cell in cells)
    write_text(path, buffer.getvalue())


def read_csv(path: Path) -> list[Cell]:
    """Read the cells of a file written by `write_csv`.

    Raises:
        DataError: naming the file and line that cannot be read as a cell.
    """
    try:
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read ({problem})") from None
    cells = []
    for number, row in enumerate(rows, start=2):
        try:
            cells.append(
                Cell(**{field: _value(field, row[field]) for field in _FIELDS if field in row or field != "connector"})
            )
        except (KeyError, ValueError, TypeError, AttributeError) as problem:
            raise DataError(f"{path}: line {number}: not a row written by `eyeswap profile` ({problem})") from None
    return cells


def _value(field: str, text: str) -> Any:
    if field in ("backbone", "problem", "connector"):
        return text
    if field == "beyond_positions":
        return text == "True"
    if not text.strip():
        return None
    return int(text) if field in ("side_px", "tokens", "peak_bytes") else float(text)
