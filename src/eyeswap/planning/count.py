"""Count the parameters and FLOPs of a connector, and of a backbone on FakeTensors, which have shapes but no data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from eyeswap.backbones.base import VisionBackbone
from eyeswap.connector_name import Grid
from eyeswap.geometry import ImageGeometry
from eyeswap.planning.cost import ConnectorSize
from eyeswap.planning.footprint import TYPICAL_IMAGE, Footprint
from eyeswap.vlm.connector import build_connector


def measure(network: VisionBackbone, geometry: ImageGeometry) -> Footprint:
    """Run a network on FakeTensors and count; the network itself is not changed."""
    columns, rows = geometry.placement(*TYPICAL_IMAGE).canvas_size
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH):  # a fused op would hide FLOPs
        state = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in network.state_dict().items()}
        parameters = {name: state[name].requires_grad_() for name, _ in network.named_parameters()}
        with _UsedParameters(parameters.values()) as used, FlopCounterMode(display=False) as counter:
            functional_call(network, state, (torch.empty(1, 3, rows, columns),))
    return Footprint(
        grid=network.token_grid(rows, columns),
        width=network.embed_dim,
        parameters=network.num_parameters,
        parameters_run=used.count(),
        flops=int(counter.get_total_flops()),
        canvas=(rows, columns),
    )


def measure_connector(kind: str, grid: Grid, vision_width: int, llm_width: int) -> ConnectorSize:
    """Build a connector, run it on an empty image and count.

    Raises:
        SpecError: if it cannot be built or run.
    """
    connector = build_connector(kind, vision_width, llm_width, seed=0, grid=grid)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        connector(connector.blank())
    return ConnectorSize(
        tokens=connector.tokens_of(grid),
        parameters=sum(parameter.numel() for parameter in connector.parameters()),
        multiplied=int(counter.get_total_flops()) // 2,
    )


class _UsedParameters(TorchFunctionMode):
    """Records which of the given parameters are passed to a torch function."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self._sizes = {id(parameter): parameter.numel() for parameter in parameters}
        self._used: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record the parameters among the arguments and call the function."""
        self._used.update(id(leaf) for leaf in tree_leaves((args, kwargs or {})) if id(leaf) in self._sizes)
        return func(*args, **(kwargs or {}))

    def count(self) -> int:
        """Return the number of parameters that were used."""
        return sum(self._sizes[identity] for identity in self._used)
