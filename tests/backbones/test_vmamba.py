"""VMamba in the small; the recorded outputs of the official sizes are compared in ``tests/goldens``."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from classifiers import VMambaClassifier
from eyeswap.backbones.vmamba import Block, MergePatches, VMamba
from eyeswap.errors import SpecError

GOLDENS = Path(os.environ.get("EYESWAP_GOLDENS") or Path(__file__).parents[1] / "goldens" / "data")
CASES = json.loads(next(GOLDENS.rglob("vssblock.json")).read_text())["cases"]
TENSORS = load_file(next(GOLDENS.rglob("vssblock.safetensors")))


def small(**changes):
    torch.manual_seed(0)
    return VMamba(**{"embed_dim": 16, "depths": (1, 2, 3, 1), "tap": (3, -1)} | changes)


def error(got, want):
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
@pytest.mark.parametrize("case", CASES)
def test_block_gives_the_recorded_values_and_gradients(case, dtype, tolerance):
    golden = {name.removeprefix(f"{case}/"): t.to(dtype) for name, t in TENSORS.items() if name.startswith(case)}
    facts = CASES[case]
    block = Block(facts["dim"], facts["d_state"], facts["ssm_ratio"], facts["mlp_ratio"]).to(dtype)
    block.load_state_dict({key: golden[f"param/{key}"] for key in facts["state_dict"]})
    x = golden["x"].permute(0, 2, 3, 1).clone().requires_grad_()  # [B, H, W, C]
    out = block(x)
    (out.permute(0, 3, 1, 2) * golden["grad_out"]).sum().backward()
    mixed = block.op(golden["op_in"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert error(mixed, golden["op_out"]) < tolerance
    assert error(out.permute(0, 3, 1, 2), golden["out"]) < tolerance
    assert error(x.grad.permute(0, 3, 1, 2), golden["grad_x"]) < tolerance
    for key, parameter in block.named_parameters():
        assert error(parameter.grad, golden[f"grad_param/{key}"]) < tolerance, key


@pytest.mark.parametrize(
    ("height", "width", "stage", "grid"),
    [(224, 224, 3, (14, 14)), (224, 224, 4, (7, 7)), (200, 333, 3, (13, 21)), (800, 1333, 3, (50, 84)),
     (512, 512, 3, (32, 32)), (1, 1, 4, (1, 1))],
)  # fmt: skip
def test_token_grid_is_exact(height, width, stage, grid):
    assert small(tap=(stage, 0)).token_grid(height, width) == grid


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 4))
def test_token_grid_is_that_of_the_network(height, width, stage):
    network = small(tap=(stage, 0)).eval()
    rows, columns = network.token_grid(height, width)
    with torch.no_grad():
        tokens = network(torch.rand(1, 3, height, width))
    assert tokens.shape == (1, rows * columns, 16 * 2 ** (stage - 1))


def test_layers_after_the_tap_are_not_built():
    whole, cut = small(tap=(4, -1)).state_dict(), small(tap=(3, 1)).state_dict()
    beyond = small(tap=(3, 1)).beyond_tap
    assert set(cut) == {key for key in whole if not key.startswith(beyond)}
    assert {
        "layers.2.blocks.2.norm.weight",
        "layers.2.downsample.1.weight",
        "layers.3.blocks.0.norm.weight",
    } <= set(whole) - set(cut)


def test_cut_network_gives_what_the_whole_one_gives_there():
    whole = small(tap=(4, -1), norm="none").eval()
    seen = []
    whole.layers[2].blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    image = torch.rand(2, 3, 48, 40)
    with torch.no_grad():
        whole(image)
        cut = small(tap=(3, 1), norm="none").eval()
        cut.load_state_dict({key: whole.state_dict()[key] for key in cut.state_dict()})
        assert torch.equal(cut.feature_map(image), seen[0])


def test_norm_of_the_tap_is_what_was_asked_for():
    image = torch.rand(2, 3, 32, 32)
    networks = {norm: small(norm=norm).eval() for norm in ("none", "plain", "trained")}
    assert [key for key in networks["trained"].state_dict() if "outnorm" in key] == [
        "outnorm2.weight",
        "outnorm2.bias",
    ]
    assert not any("outnorm" in key for norm in ("none", "plain") for key in networks[norm].state_dict())
    networks["trained"].outnorm2.weight.data.fill_(2.0)
    networks["trained"].outnorm2.bias.data.fill_(1.0)
    with torch.no_grad():
        tokens = {norm: network(image) for norm, network in networks.items()}
    plain = torch.nn.functional.layer_norm(tokens["none"], (64,), eps=1e-5)
    assert torch.allclose(tokens["plain"], plain, atol=1e-6)
    assert torch.allclose(tokens["trained"], 2 * plain + 1, atol=1e-5)


def test_last_layer_is_counted_from_the_end():
    assert set(small(tap=(3, -1)).state_dict()) == set(small(tap=(3, 2)).state_dict())


@pytest.mark.parametrize("tap", [(0, 0), (5, 0), (3, 3), (3, -4)])
def test_tap_that_does_not_exist_is_an_error(tap):
    with pytest.raises(SpecError, match="tap"):
        small(tap=tap)


def test_unknown_norm_is_an_error_that_names_the_nearest():
    with pytest.raises(SpecError, match="Did you mean trained"):
        small(norm="trainde")


def test_every_parameter_learns():
    network = small(norm="trained").train()
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent in ([], ["outnorm2.bias"])


def test_a_few_steps_from_scratch_reduce_the_loss():
    network = small(embed_dim=32, depths=(1, 1, 1), norm="trained", drop_path_rate=0.1).train()
    image, target = torch.randn(4, 3, 32, 32), torch.randn(4, 4, 128)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = (network(image) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_drop_path_acts_in_training_only_and_never_when_frozen():
    network = small(drop_path_rate=0.9)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        network.eval()
        still = network(image)
        assert torch.equal(network(image), still)
        assert any(not torch.equal(network.train()(image), still) for _ in range(5))
        assert torch.equal(network.freeze().train()(image), still)


def test_scan_starts_as_the_official_one_does():
    op = small(d_state=3).layers[0].blocks[0].op
    steps = torch.nn.functional.softplus(op.dt_projs_bias)
    assert 1e-3 * 0.999 <= steps.min() <= steps.max() <= 0.1 * 1.001
    assert torch.allclose(op.A_logs.exp(), torch.arange(1.0, 4.0).expand(64, 3))
    assert torch.equal(op.Ds, torch.ones(64))


def test_classifier_has_the_official_head_and_keys():
    torch.manual_seed(0)
    network = VMambaClassifier(num_classes=5, embed_dim=16, depths=(1, 1, 1, 1)).eval()
    assert [key for key in network.state_dict() if key.startswith("classifier.")] == [
        "classifier.norm.weight", "classifier.norm.bias", "classifier.head.weight", "classifier.head.bias",
    ]  # fmt: skip
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def vanilla(**changes):
    return small(forward_type="v0", d_state=2, ssm_ratio=2.0, mlp_ratio=0.0, **changes).eval()


def test_first_release_has_a_gate_and_no_mlp():
    state = vanilla().state_dict()
    assert state["layers.0.blocks.0.op.in_proj.weight"].shape == (64, 16)
    assert state["layers.0.blocks.0.op.conv2d.bias"].shape == (32,)
    assert state["patch_embed.0.weight"].shape == (16, 3, 4, 4)
    assert state["layers.0.downsample.reduction.weight"].shape == (32, 64)
    assert not any("mlp" in key or "norm2" in key for key in state)


def test_first_release_multiplies_the_scan_by_the_gate():
    op = vanilla().layers[0].blocks[0].op
    x = torch.rand(1, 4, 4, 16)
    with torch.no_grad():
        half = op.in_proj.weight[32:].clone()
        op.in_proj.weight[32:] = 0.0  # silu(0) = 0 closes the gate
        assert not op(x).any()
        op.in_proj.weight[32:] = half
        assert op(x).any()


def test_first_release_merges_neighbours_column_by_column():
    merge = MergePatches(1)
    merge.norm = merge.reduction = nn.Identity()
    x = torch.arange(9.0).view(1, 3, 3, 1)
    assert merge(x).tolist() == [[[[0, 3, 1, 4], [2, 5, 0, 0]], [[6, 0, 7, 0], [8, 0, 0, 0]]]]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (37, 50), (63, 45)])
def test_token_grid_of_the_first_release_is_that_of_the_network(height, width):
    network = vanilla()
    rows, columns = network.token_grid(height, width)
    assert network(torch.rand(1, 3, height, width)).shape == (1, rows * columns, 64)


def test_unknown_forward_type_is_an_error():
    with pytest.raises(SpecError, match="forward_type"):
        small(forward_type="v3")
