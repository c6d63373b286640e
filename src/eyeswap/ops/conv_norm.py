"""A convolution, its BatchNorm and its activation: in one pass over memory where a frozen network runs on a CPU.

In eval mode a BatchNorm is a scale and a shift of each channel, which fold into the convolution; oneDNN then applies
the activation to the output while it is in the cache. On a GPU, in train mode and where gradients are needed the three
layers run one after the other.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

Activation = Literal["none", "relu", "gelu-tanh"]

_ONEDNN = {"none": ("none", ""), "relu": ("relu", ""), "gelu-tanh": ("gelu", "tanh")}  # its names of attribute, variant


def conv_norm(
    features: Tensor,
    conv: nn.Conv2d,
    norm: nn.BatchNorm2d | None,
    activation: Activation = "none",
    before: nn.BatchNorm2d | None = None,
) -> Tensor:
    """Return ``activation(norm(conv(before(features))))``.

    Args:
        features: ``[B, C_in, H, W]``.
        conv: the convolution.
        norm: BatchNorm behind it, if any.
        activation: applied last.
        before: BatchNorm in front of it, if any; ``conv`` must then be 1x1 without padding.

    Returns:
        ``[B, C_out, H', W']``, in channels-last memory where it is computed in one pass.
    """
    norms = [module for module in (norm, before) if module is not None]
    if not _is_frozen_on_cpu(features, conv, norms):
        features = conv(features if before is None else before(features))
        features = features if norm is None else norm(features)
        return _activated(features, activation)
    weight, bias = conv.weight, conv.bias
    if before is not None:
        scale, shift = _scale_and_shift(before)
        own = weight.flatten(1) @ shift  # [C_out]; the kernel is 1x1
        weight, bias = weight * scale[:, None, None], own if bias is None else bias + own
    if norm is not None:
        scale, shift = _scale_and_shift(norm)
        weight, bias = weight * scale[:, None, None, None], shift if bias is None else torch.addcmul(shift, bias, scale)
    attribute, variant = _ONEDNN[activation]
    convolve = torch.ops.mkldnn._convolution_pointwise
    shape = (conv.padding, conv.stride, conv.dilation, conv.groups)
    mixed: Tensor = convolve(
        features.contiguous(memory_format=torch.channels_last), weight, bias, *shape, attribute, [], variant
    )
    return mixed


def _is_frozen_on_cpu(features: Tensor, conv: nn.Conv2d, norms: list[nn.BatchNorm2d]) -> bool:
    """Return whether oneDNN can compute all at once: in eval mode, in float32, without gradients, with real numbers."""
    tensors = [features, *(parameter for module in (conv, *norms) for parameter in module.parameters())]
    return (
        features.device.type == "cpu"
        and features.dtype == torch.float32
        and not isinstance(features, FakeTensor)
        and not any(norm.training for norm in norms)
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
    )


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a BatchNorm in eval mode multiplies each channel by, and adds to it; both ``[C]``."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def _activated(features: Tensor, activation: Activation) -> Tensor:
    if activation == "none":
        return features
    return F.relu(features) if activation == "relu" else F.gelu(features, approximate="tanh")
