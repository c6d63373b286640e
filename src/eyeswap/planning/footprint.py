"""What a backbone amounts to: tokens, parameters that run, FLOPs; found on tensors without numbers or memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from eyeswap.backbones import catalog, external
from eyeswap.backbones.base import VisionBackbone
from eyeswap.backbones.name import BackboneName
from eyeswap.download import cache_folder
from eyeswap.errors import DataError
from eyeswap.files import digest, read_json, write_json
from eyeswap.geometry import ImageGeometry
from eyeswap.recipe import Wiring
from eyeswap.runs.environment import code_version, version_of

TYPICAL_IMAGE = (640, 480)  # width and height of most COCO images, where the canvas varies with the image


@dataclass(frozen=True)
class Footprint:
    """What a backbone amounts to on the canvas of its geometry.

    Attributes:
        grid: rows and columns of visual tokens; of a 640x480 image where the canvas varies.
        width: width of a token.
        parameters: parameters of the network, cut behind its tap.
        parameters_run: those of them that take part in a forward pass.
        flops: FLOPs of the forward pass of one image.
        canvas: height and width of the canvas in pixels; that of a 640x480 image where it varies.
    """

    grid: tuple[int, int]
    width: int
    parameters: int
    parameters_run: int
    flops: int
    canvas: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Visual tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def stride_px(self) -> float:
        """Pixels of the canvas from one token to the next."""
        return self.canvas[0] / self.grid[0]


def backbone_footprint(name: str, wiring: Wiring, tap: str | None, geometry: str | None) -> Footprint:
    """Measure a backbone as an arm declares it, without its weights.

    Args:
        name: catalog name, ``file.py:function``, or ``timm:<model>``.
        wiring: ``controlled`` or ``as-published``.
        tap: another tap than the backbone's own.
        geometry: another geometry than the backbone's own.

    Raises:
        SpecError: if name, tap or geometry does not exist.
        EnvironmentProblem: if ``timm:`` is used without the timm extra.
    """
    parsed = BackboneName.parse(name)
    return _remembered(parsed, wiring, tap, geometry, parsed.file_sha256)


@functools.lru_cache(maxsize=512)
def _remembered(
    name: BackboneName, wiring: Wiring, tap: str | None, geometry: str | None, source: str | None
) -> Footprint:
    """Look into the cache on disk first: a large network takes seconds."""
    code = code_version("backbones", "ops", "geometry.py", "planning/footprint.py")
    key = digest([str(name), wiring, tap, geometry, source, code, version_of("torch"), version_of("timm")])
    path = cache_folder().parent / "footprints" / f"{key[:24]}.json"
    try:
        known = read_json(path)
        return Footprint(**{**known, "grid": tuple(known["grid"]), "canvas": tuple(known["canvas"])})
    except (DataError, KeyError, TypeError):  # not measured yet, or not by this version
        footprint = _measured(name, wiring, tap, geometry)
    with contextlib.suppress(OSError):  # a cache that cannot be written is no cache
        write_json(path, asdict(footprint))
    return footprint


def _measured(name: BackboneName, wiring: Wiring, tap: str | None, geometry: str | None) -> Footprint:
    if name.kind == "catalog":
        entry = catalog.entry(name.model).wired(wiring).with_changes(tap=tap, geometry=geometry)
        return measure(entry.build_on_meta(), entry.geometry)
    with torch.device("meta" if name.kind == "timm" else "cpu"):
        network, canvas = external.build(name, tap, pretrained=False)
    return measure(network, canvas if geometry is None else canvas.override(geometry))


def measure(network: VisionBackbone, geometry: ImageGeometry) -> Footprint:
    """Run a network on tensors without numbers and count; the network itself is left as it is."""
    columns, rows = geometry.placement(*TYPICAL_IMAGE).canvas_size
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH):  # no fused op hides its FLOPs
        hollow = {name: torch.empty(own.shape, dtype=own.dtype) for name, own in network.state_dict().items()}
        parameters = {name: hollow[name].requires_grad_() for name, _ in network.named_parameters()}
        with _UsedParameters(parameters.values()) as used, FlopCounterMode(display=False) as counter:
            functional_call(network, hollow, (torch.empty(1, 3, rows, columns),))
    return Footprint(
        grid=network.token_grid(rows, columns),
        width=network.embed_dim,
        parameters=network.num_parameters,
        parameters_run=used.count(),
        flops=int(counter.get_total_flops()),
        canvas=(rows, columns),
    )


class _UsedParameters(TorchFunctionMode):
    """Notes which of some parameters are handed to a function of torch."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self._sizes = {id(parameter): parameter.numel() for parameter in parameters}
        self._used: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the parameters among the arguments, and do what was asked."""
        self._used.update(id(leaf) for leaf in tree_leaves((args, kwargs or {})) if id(leaf) in self._sizes)
        return func(*args, **(kwargs or {}))

    def count(self) -> int:
        """Return the number of parameters that were used."""
        return sum(self._sizes[one] for one in self._used)
