"""Does an encoder keep the contract of a backbone? For the terminal and for test-suites, whoever wrote the encoder.

`check_backbone` gives one finding a promise; `assert_conforms` is the same for a test. Each finding says what was
measured and, where a promise is broken, what to do. Images are seeded noise in the colours of the geometry, so nothing
is downloaded.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.measure import measure_speed
from eyeswap.backbones.promises import CHECKS, Finding, Subject
from eyeswap.geometry import ImageGeometry

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
    """Check a backbone against the contract, one finding at a time; it is frozen on the way.

    Args:
        network: the backbone.
        geometry: how images meet it.
        checks: names of `CHECKS`, by default all.
        num_images: images in a batch.
        device: where to run it.
        with_speed: whether to measure speed and memory too, which takes several passes.
    """
    noise = torch.rand(num_images, 3, *geometry.canvas, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (geometry.mean, geometry.std))
    images = ((noise - mean) / std).to(device)
    subject = Subject(network.to(device).freeze(), geometry, images)
    for name in checks or CHECKS:
        finding = _run(name, CHECKS[name], subject)
        yield finding
        if name == "tokens" and finding.status == "failed":
            return  # nothing else can be said before it runs
    if with_speed:
        yield from measured_findings(network, images[:1])


def assert_conforms(network: VisionBackbone, geometry: ImageGeometry, *, device: str = "cpu") -> None:
    """Check a backbone against the contract, speed aside; for the test-suite of those who wrote it.

    Raises:
        AssertionError: naming each broken promise and what to do.
    """
    findings = list(check_backbone(network, geometry, device=device, with_speed=False))
    broken = [f"{one.check}: {one.found}; {one.remedy}" for one in findings if one.status == "failed"]
    if broken:
        raise AssertionError("\n".join(broken))


def _run(name: str, check: Callable[[Subject], Finding], subject: Subject) -> Finding:
    """Run one check; whatever the encoder raises is a finding too."""
    try:
        return check(subject)
    except Exception as error:  # an encoder of one's own can raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(place.filename).name}:{place.lineno})"
        return Finding(name, "failed", found, "make forward and token_grid work on [B, 3, H, W] of float32")


def measured_findings(network: VisionBackbone, image: Tensor) -> Iterator[Finding]:
    """Yield speed and memory of passes over ``image``, ``[1, 3, H, W]``, and batches of it."""
    speed = measure_speed(network, image)
    rates = ", ".join(
        f"{rate:{',.0f' if rate >= 100 else '.3g'}} images/s at batch {batch}"
        for batch, rate in speed.images_per_s.items()
    )
    yield Finding("speed", "ok", f"{rates}, {speed.where}, float32")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    peak = "not measured on this system" if speed.peak_bytes is None else f"{speed.peak_bytes / 2**20:,.0f} MiB at most"
    yield Finding("memory", "ok", f"{peak} ({speed.peak_of}); {weights / 2**20:,.0f} MiB of it are weights")
