"""Spatial-Mamba in the small; the recorded outputs of the official sizes are compared in ``tests/goldens``."""

import pytest
import torch
from torch.nn import functional as F

from classifiers import SpatialMambaClassifier
from eyeswap.backbones.spatial_mamba import DILATIONS, SpatialMamba, StateFusion, StructuredScan
from eyeswap.backbones.state import load_state
from eyeswap.errors import SpecError

SMALL = {"embed_dim": 8, "depths": (1, 2, 1)}


def small(**changes):
    torch.manual_seed(0)
    return SpatialMamba(**(SMALL | changes)).eval()


def error(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize(
    ("height", "width", "stage", "grid"),
    [
        (224, 224, 3, (14, 14)),
        (200, 333, 1, (50, 84)),
        (200, 333, 3, (13, 21)),
        (200, 333, 4, (7, 11)),
        (1, 1, 2, (1, 1)),
    ],
)
def test_token_grid_is_exact(height, width, stage, grid):
    assert small(depths=(1, 1, 1, 1), tap=(stage, 0)).token_grid(height, width) == grid


@pytest.mark.parametrize("size", [(32, 32), (37, 50), (1, 9)])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_token_grid_is_that_of_the_network(size, stage):
    network = small(tap=(stage, -1))
    rows, columns = network.token_grid(*size)
    with torch.no_grad():
        assert network(torch.randn(1, 3, *size)).shape == (1, rows * columns, 8 * 2 ** (stage - 1))


def test_fusion_is_the_merged_kernel_of_eleven_with_replicated_borders():
    torch.manual_seed(0)
    fusion = StateFusion(6).double()
    fusion.alpha.data = torch.randn(3, dtype=torch.float64)
    merged = torch.zeros(6, 1, 11, 11, dtype=torch.float64)
    kernels = (fusion.kernel_3, fusion.kernel_3_1, fusion.kernel_3_2)
    for dilation, kernel, share in zip(DILATIONS, kernels, fusion.alpha, strict=True):
        reach = slice(5 - dilation, 6 + dilation, dilation)
        merged[:, :, reach, reach] += share * kernel
    states = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    padded = F.pad(states.permute(0, 3, 1, 2), (5,) * 4, mode="replicate")
    want = F.conv2d(padded, merged, groups=6).permute(0, 2, 3, 1)
    with torch.no_grad():
        assert error(fusion(states), want) < 1e-14


def test_fusion_follows_its_weights_after_a_forward_pass():
    fusion, states = StateFusion(4), torch.randn(1, 5, 5, 4)
    with torch.no_grad():
        before = fusion(states)
        fusion.load_state_dict({key: 2 * value for key, value in fusion.state_dict().items()})
        assert error(fusion(states), 4 * before) < 1e-6


def test_the_mixer_applies_c_and_the_skip_behind_the_fusion():
    torch.manual_seed(0)
    mixer, x = StructuredScan(8, 2).double(), torch.randn(1, 3, 4, 8, dtype=torch.float64)
    for parameter in mixer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    with torch.no_grad():
        u, z = mixer.in_proj(x).chunk(2, dim=3)
        u = F.silu(mixer.conv2d(u))
        code, b, c = F.linear(u, mixer.x_proj_weight).split([1, 1, 1], dim=3)
        size = F.softplus(F.linear(code, mixer.dt_projs_weight) + mixer.dt_projs_bias)
        state, states = 0, []
        for row in range(3):
            for column in range(4):
                at = (slice(None), row, column)
                state = torch.exp(-size[at] * mixer.A_logs[:, 0].exp()) * state + size[at] * b[at] * u[at]
                states.append(state)
        y = mixer.state_fusion(torch.stack(states, 1).view(u.shape)) * c + mixer.Ds * u
        want = mixer.out_proj(mixer.out_norm(y) * F.silu(z))
        assert error(mixer(x), want) < 1e-13


def test_scan_and_fusion_stay_in_float32_under_half_precision():
    network, seen = small().bfloat16(), []
    for module in network.modules():
        if isinstance(module, StateFusion):
            module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32).bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            small().requires_grad_()(torch.randn(1, 3, 32, 32))
    assert len(seen) == 4
    assert set(seen) == {(torch.float32, torch.float32)}


def test_batch_norms_do_not_drift_once_frozen():
    network = small().freeze()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.nn.Sequential(network).train()
    network(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_norm_and_tap_are_what_was_asked_for():
    image = torch.rand(1, 3, 32, 32)
    tokens = {norm: small(norm=norm)(image) for norm in ("none", "plain", "trained")}
    assert torch.allclose(tokens["plain"], F.layer_norm(tokens["none"], (32,)), atol=1e-6)
    assert torch.equal(tokens["trained"], tokens["plain"])  # as it starts
    assert [key for key in small(norm="trained").state_dict() if "outnorm" in key] == [
        "outnorm2.weight",
        "outnorm2.bias",
    ]
    with pytest.raises(SpecError, match="Did you mean trained"):
        small(norm="trainde")
    with pytest.raises(SpecError, match="tap"):
        small(tap=(3, 1))


def test_classifier_and_detector_files_load_into_the_cut_network():
    torch.manual_seed(0)
    classifier = SpatialMambaClassifier(num_classes=5, **SMALL).eval()
    assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    cut = small(tap=(2, 0))
    load_state(cut, classifier.state_dict(), source="test")
    dense = {key: value for key, value in classifier.state_dict().items() if not key.startswith(("norm.", "head."))}
    dense |= {f"outnorm{i}.{leaf}": torch.ones(8 * 2**i) for i in range(3) for leaf in ("weight", "bias")}
    trained = small(tap=(2, 0), norm="trained")
    load_state(trained, dense, source="test")
    assert bool((trained.outnorm1.bias == 1).all())


def test_every_parameter_learns():
    network = small(norm="trained").train()
    network(torch.rand(2, 3, 32, 32)).square().mean(1).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
