"""Check that an encoder, built-in or your own, keeps the contract of a backbone; for the terminal and for test suites.

`check_backbone` yields one finding per check; `assert_conforms` does the same for a test suite. Each finding says what
was measured and, if the check failed, what to do. Images are seeded noise normalised as the geometry says, so nothing
is downloaded.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.measure import measure_speed
from eyeswap.backbones.weights import LoadedBackbone, load_backbone
from eyeswap.errors import EyeswapError
from eyeswap.geometry import ImageGeometry
from eyeswap.own_code import one_line

__all__ = ["CHECKS", "Finding", "assert_conforms", "check_backbone"]


def check_backbone(
    network: VisionBackbone,
    geometry: ImageGeometry,
    *,
    checks: Sequence[str] | None = None,
    num_images: int = 3,
    device: str = "cpu",
    with_speed: bool = True,
) -> Iterator[Finding]:
    """Check a backbone against the contract, one finding at a time; this freezes the backbone.

    Args:
        network: the backbone.
        geometry: how an image becomes its input.
        checks: names of `CHECKS`, by default all.
        num_images: batch size.
        device: where to run it.
        with_speed: whether to also measure speed and memory, which takes several passes.
    """
    noise = torch.rand(num_images, 3, *geometry.canvas, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (geometry.mean, geometry.std))
    images = ((noise - mean) / std).to(device)
    subject = Subject(network.to(device).freeze(), geometry, images)
    for name in checks or CHECKS:
        finding = _run(name, CHECKS[name], subject)
        yield finding
        if name == "tokens" and finding.status == "failed":
            return  # the other checks need tokens
    if with_speed:
        yield from measured_findings(network, images[:1])


def assert_conforms(network: VisionBackbone, geometry: ImageGeometry, *, device: str = "cpu") -> None:
    """Check a backbone against the contract, without timing it; meant for the test suite of its authors.

    Raises:
        AssertionError: one line per failed check, with what to do.
    """
    findings = list(check_backbone(network, geometry, device=device, with_speed=False))
    broken = [f"{item.check}: {item.found}; {item.remedy}" for item in findings if item.status == "failed"]
    if broken:
        raise AssertionError("\n".join(broken))


def _run(name: str, check: Callable[[Subject], Finding], subject: Subject) -> Finding:
    """Run one check; an exception raised by the encoder is a finding too."""
    try:
        return check(subject)
    except Exception as error:  # a user's encoder can raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{one_line(error)} ({Path(place.filename).name}:{place.lineno})"
        return Finding(name, "failed", found, "make forward and token_grid work on float32 [B, 3, H, W]")


def measured_findings(network: VisionBackbone, image: Tensor) -> Iterator[Finding]:
    """Yield speed and memory of forward passes on ``image``, ``[1, 3, H, W]``, and on batches of it."""
    speed = measure_speed(network, image)
    rates = ", ".join(
        f"{rate:{',.0f' if rate >= 100 else '.3g'}} images/s at batch {batch}"
        for batch, rate in speed.images_per_s.items()
    )
    yield Finding("speed", "ok", f"{rates}, {speed.where}, float32")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    peak = (
        "peak not available on this system" if speed.peak_bytes is None else f"peak {speed.peak_bytes / 2**20:,.0f} MiB"
    )
    yield Finding("memory", "ok", f"{peak} ({speed.peak_of}), of which {weights / 2**20:,.0f} MiB are weights")


def check_weights(name: str, weights: Path | None = None) -> Iterator[Finding]:
    """Check the weights of a catalog entry, one finding at a time.

    Args:
        name: a catalog name.
        weights: the official file, or a folder that contains it; by default it is downloaded once.

    Raises:
        SpecError: if the catalog has no such entry.
        CheckpointError: if the file is missing, damaged, unsafe to read, or does not fit; the message says why.
    """
    loaded = load_backbone(name, weights)
    yield from _file_findings(loaded)
    yield from check_backbone(
        loaded.network, loaded.geometry, checks=("tokens", "repeat"), num_images=1, with_speed=False
    )


def _file_findings(loaded: LoadedBackbone) -> Iterator[Finding]:
    entry, path, keys = loaded.entry, loaded.weights_file, loaded.keys
    assert entry is not None
    assert path is not None
    assert keys is not None
    source = entry.weights
    yield Finding("file", "ok", f"{path} ({path.stat().st_size / 2**20:,.1f} MiB)")
    if source.sha256 in (None, loaded.weights_sha256):
        compared = "no digest in the catalog to compare with" if source.sha256 is None else "as in the catalog"
        yield Finding("sha256", "ok", f"{loaded.weights_sha256} ({compared})")
    else:
        found = f"{loaded.weights_sha256}, but the catalog has {source.sha256}"
        yield Finding("sha256", "failed", found, "delete the file and download it again")
    terms = "" if source.commercial_use else ": for non-commercial use only"
    yield Finding("licence", "ok" if source.commercial_use else "note", f"{source.licence}{terms}")
    found = f"{keys.found} tensors of the network: {keys.used} used, {keys.found - keys.used} beyond the tap"
    if keys.default:
        found += f"; {len(keys.default)} absent and left at their initial values, such as {keys.default[0]}"
    yield Finding("keys", "ok", f"{found}; none missing, none unexpected")


MOST_BATCH_DIFFERENCE = 1e-4  # relative L2; kernels round differently for other batch sizes, by about 1e-6
LARGEST_PIXEL = 20.0  # normalised colours stay within a few units; colours of 0..255 do not
PROBE_REACH = 0.15  # of the grid size: how far from the changed cell the largest effect may lie

Status = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        check: name of the check.
        status: ``ok``, ``failed``, or ``note`` if the reader has to judge.
        found: what was measured.
        remedy: what to do; empty if nothing.
    """

    check: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Subject:
    """The network under test, frozen, with its geometry and a batch of images ``[B, 3, H, W]``."""

    network: VisionBackbone
    geometry: ImageGeometry
    images: Tensor

    @functools.cached_property
    def tokens(self) -> Tensor:
        """The tokens of the images, ``[B, N, D]``."""
        return _run_network(self.network, self.images)

    @functools.cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens on the geometry's canvas."""
        return self.network.token_grid(*self.geometry.canvas)


def check_tokens(subject: Subject) -> Finding:
    """Check that tokens are ``[B, N, D]``, floating-point and finite."""
    rows, columns = subject.grid
    tokens, expected = subject.tokens, (len(subject.images), rows * columns, subject.network.embed_dim)
    size = f"{subject.geometry.canvas[0]}x{subject.geometry.canvas[1]}"
    if tuple(tokens.shape) != expected:
        found = f"{list(tokens.shape)} from {size} pixels, but token_grid and embed_dim give {list(expected)}"
        return Finding("tokens", "failed", found, "return [B, h, w, D] from feature_map, without prefix tokens")
    if not tokens.is_floating_point() or not bool(tokens.isfinite().all()):
        return Finding("tokens", "failed", f"{tokens.dtype}, not all finite", "look for a division by zero or overflow")
    found = f"{rows}x{columns} = {rows * columns} tokens of width {tokens.shape[2]} from {size} pixels, all finite"
    return Finding("tokens", "ok", found)


def check_grid(subject: Subject) -> Finding:
    """Check that ``token_grid`` matches a real forward pass at several sizes, square or not, or rejects the size."""
    exact, rejected = [], []
    for height, width in _other_sizes(subject):
        try:
            rows, columns = subject.network.token_grid(height, width)
        except EyeswapError:
            rejected.append(f"{height}x{width}")
            continue
        except Exception as error:  # a user's encoder can raise anything
            found = f"{height}x{width} pixels: token_grid fails: {one_line(error)}"
            return Finding("grid", "failed", found, "raise ShapeError for sizes that the network does not support")
        try:
            tokens = _run_network(subject.network, subject.images.new_zeros(1, 3, height, width))
        except Exception as error:  # a user's encoder can raise anything
            found = f"{height}x{width} pixels: token_grid says {rows}x{columns}, forward fails: {one_line(error)}"
            return Finding("grid", "failed", found, "make token_grid exact, or raise ShapeError for this size")
        if tokens.shape[1] != rows * columns:
            found = f"{height}x{width} pixels: token_grid says {rows}x{columns}, forward gives {tokens.shape[1]} tokens"
            return Finding("grid", "failed", found, "round in token_grid exactly as the layers do, step by step")
        exact.append(f"{height}x{width}")
    parts = [f"exact at {', '.join(exact)}" if exact else "its own size only"]
    if rejected:
        parts.append(f"rejects {', '.join(rejected)}")
    return Finding("grid", "ok", "; ".join(parts))


def _other_sizes(subject: Subject) -> list[tuple[int, int]]:
    """Return sizes of whole tokens that are not square, a smaller square, and a size that fits no token grid."""
    (height, width), (rows, columns) = subject.geometry.canvas, subject.grid
    tall, wide = (-(-height // rows), -(-width // columns))  # pixels per token, rounded up
    half, full = (max(1, rows // 2), max(1, columns // 2)), (rows, columns)
    grids = [(half[0], full[1]), (full[0], half[1]), half]
    return [*((r * tall, c * wide) for r, c in grids), (half[0] * tall + 1, half[1] * wide + 3)]


def check_repeat(subject: Subject) -> Finding:
    """Check that the same images give the same tokens, bit for bit."""
    again = _run_network(subject.network, subject.images)
    if torch.equal(again, subject.tokens):
        return Finding("repeat", "ok", "the same images give the same tokens, bit for bit")
    largest = float((again - subject.tokens).abs().max())
    remedy = "look for dropout or random numbers in forward, or state that a forward pass changes"
    return Finding("repeat", "failed", f"two passes over the same images differ by up to {largest:.2g}", remedy)


def check_raster(subject: Subject) -> Finding:
    """Check that token ``r * columns + c`` shows row ``r``, column ``c``: a change there must affect it most."""
    rows, columns = subject.grid
    if min(rows, columns) < 4:
        return Finding("raster", "note", f"a grid of {rows}x{columns} is too small to tell rows from columns")
    cells = [(rows // 5, 3 * columns // 4), (3 * rows // 4, columns // 5), (rows // 3, columns // 2)]
    affected = [(_most_affected(subject, row, column), row, column) for row, column in cells]
    right = sum(_is_near(token, (row, column), subject.grid) for token, row, column in affected)
    swapped = sum(_is_near(token, (column, row), subject.grid) for token, row, column in affected)
    if right >= 2:
        return Finding("raster", "ok", "a change in one cell of the image affects the token of that cell most")
    if swapped == len(cells):
        found = "rows and columns are swapped: a change at row r, column c affects the token of row c, column r"
        return Finding("raster", "failed", found, "return [B, h, w, D]: height before width, channels last")
    found = "a change in one cell of the image affects tokens elsewhere most"
    return Finding("raster", "note", found, "check that tokens run row by row from the top left, without prefix tokens")


def _most_affected(subject: Subject, row: int, column: int) -> tuple[int, int]:
    """Return row and column of the token that changes most when one cell of the image changes."""
    (height, width), (rows, columns) = subject.geometry.canvas, subject.grid
    tall, wide = height / rows, width / columns
    changed = subject.images[:1].clone()
    changed[:, :, int(row * tall) : int((row + 1) * tall), int(column * wide) : int((column + 1) * wide)] *= -2
    before = subject.tokens[0].float()
    effect = (_run_network(subject.network, changed)[0].float() - before).norm(dim=1)
    return divmod(int((effect / before.norm(dim=1).clamp_min(1e-12)).argmax()), columns)


def _is_near(token: tuple[int, int], cell: tuple[int, int], grid: tuple[int, int]) -> bool:
    return all(abs(a - b) <= max(1.0, PROBE_REACH * size) for a, b, size in zip(token, cell, grid, strict=True))


def check_frozen(subject: Subject) -> Finding:
    """Check that the backbone stays frozen: no gradients, always in eval mode, no drifting statistics."""
    network = subject.network.freeze()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    nn.Sequential(network).train()
    training = [name or "the backbone itself" for name, module in network.named_modules() if module.training]
    tokens = network(subject.images)
    drifted = [key for key, value in network.state_dict().items() if not torch.equal(value, before[key])]
    trainable = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    network.freeze()
    if training:
        found = f"train() on a parent put {training[0]} into training mode"
        return Finding("frozen", "failed", found, "do not override train() and freeze() of VisionBackbone")
    if drifted:
        found = f"a forward pass changed {drifted[0]}"
        return Finding("frozen", "failed", found, "keep BatchNorm in eval mode; do not write to buffers in forward")
    if trainable or tokens.requires_grad:
        found = f"{trainable[0] if trainable else 'the tokens'} still requires a gradient"
        return Finding("frozen", "failed", found, "register every tensor as a parameter or buffer of the module")
    if not torch.equal(tokens, subject.tokens):
        return Finding("frozen", "failed", "train() on a parent changes the tokens", "look for F.dropout in forward")
    return Finding("frozen", "ok", "train() on a parent changes nothing; no gradients, no drifting statistics")


def check_batch(subject: Subject) -> Finding:
    """Check that an image has the same tokens alone and in a batch, up to rounding."""
    alone = _run_network(subject.network, subject.images[-1:])
    difference = _relative(alone, subject.tokens[-1:])
    found = f"alone and in a batch of {len(subject.images)}: relative difference {difference:.1e}"
    if difference <= MOST_BATCH_DIFFERENCE:
        return Finding("batch", "ok", found)
    remedy = "look for batch statistics, or a reshape that mixes images"
    return Finding("batch", "failed", f"{found}, more than {MOST_BATCH_DIFFERENCE:g}", remedy)


def check_pixels(subject: Subject) -> Finding:
    """Check that the geometry's mean and std are for colours of 0..1 and are applied to the pixels."""
    geometry = subject.geometry
    colour = (64, 128, 192)
    pixels, placement = geometry.place(Image.new("RGB", geometry.canvas[::-1], colour))
    left, top, right, bottom = placement.content_box
    middle = pixels[:, int(top + bottom) // 2, int(left + right) // 2]
    expected = (torch.tensor(colour) / 255 - torch.tensor(geometry.mean)) / torch.tensor(geometry.std)
    largest = float(pixels.abs().max())
    if max(*geometry.mean, *geometry.std) > 1:
        found = f"mean {geometry.mean[0]:g} and std {geometry.std[0]:g} are for colours of 0..255"
        return Finding("pixels", "failed", found, "divide mean and std by 255: colours are 0..1 here")
    if largest > LARGEST_PIXEL:
        found = f"pixels reach {largest:.0f}, as if colours were 0..255"
        return Finding("pixels", "failed", found, "let place() return (colour - mean) / std for colours of 0..1")
    if not torch.allclose(middle, expected, atol=0.02):
        found = f"a colour becomes {middle.tolist()}, expected {expected.tolist()}"
        return Finding("pixels", "failed", found, "let place() subtract the mean and divide by the std")
    mean, std = ("/".join(f"{value:g}" for value in values) for values in (geometry.mean, geometry.std))
    if set(geometry.mean) == {0.0} and set(geometry.std) == {1.0}:
        remedy = "right only if the network normalises them itself; otherwise give mean and std"
        return Finding("pixels", "note", "pixels arrive as plain 0..1 colours", remedy)
    return Finding("pixels", "ok", f"normalised by mean {mean}, std {std}")


def check_bf16(subject: Subject) -> Finding:
    """Check that bf16 autocast, which training uses, does not change a frozen backbone's tokens by a single bit."""
    with torch.autocast(subject.images.device.type, dtype=torch.bfloat16):
        tokens = _run_network(subject.network, subject.images)
    if torch.equal(tokens, subject.tokens):
        return Finding("bf16", "ok", "tokens are bit-identical inside bf16 autocast, which training uses")
    found = f"inside bf16 autocast, which training uses, tokens differ by {_relative(tokens, subject.tokens):.1%}"
    remedy = "implement feature_map and leave forward() to VisionBackbone; use no random numbers"
    return Finding("bf16", "failed", found, remedy)


def _run_network(network: VisionBackbone, images: Tensor) -> Tensor:
    with torch.no_grad():
        tokens: Tensor = network(images)
    return tokens


def _relative(tokens: Tensor, reference: Tensor) -> float:
    return float((tokens - reference).norm() / reference.norm().clamp_min(1e-12))


CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "tokens": check_tokens,
    "grid": check_grid,
    "repeat": check_repeat,
    "raster": check_raster,
    "frozen": check_frozen,
    "batch": check_batch,
    "pixels": check_pixels,
    "bf16": check_bf16,
}
