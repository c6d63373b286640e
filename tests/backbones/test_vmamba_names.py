"""Every published spelling of a VMamba checkpoint must load as the same network."""

import re

import pytest
import torch

from classifiers import VMambaClassifier
from eyeswap.backbones.vmamba import VMamba, official_state_dict


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VMambaClassifier(num_classes=3, embed_dim=16, depths=(1, 1, 1, 1)).eval()


def same(got, want):
    got = {key: value for key, value in got.items() if not key.startswith("outnorm")}
    assert list(got) == list(want)
    assert all(torch.equal(got[key], want[key]) for key in want)


def test_the_files_of_today_pass_through(network):
    state = network.state_dict()
    same(official_state_dict({"model": state, "epoch": 3}), state)
    same(official_state_dict(official_state_dict(state)), state)


def test_single_file_code_stores_projections_as_flat_weights(network):
    state = network.state_dict()
    newer = {
        re.sub(r"(x_proj|dt_projs)_weight", r"\1.weight", key): value.flatten(0, 1) if value.ndim == 3 else value
        for key, value in state.items()
    }
    assert newer["layers.0.blocks.0.op.x_proj.weight"].shape == (4 * 3, 16)
    same(official_state_dict({"model": newer}), state)


def test_linear_layers_may_have_the_shape_of_convolutions(network):
    state = network.state_dict()
    is_linear = re.compile(r"(in_proj|out_proj|fc1|fc2)\.weight")
    convolutions = {k: v[:, :, None, None] if is_linear.search(k) else v for k, v in state.items()}
    assert convolutions["layers.0.blocks.0.mlp.fc1.weight"].shape == (64, 16, 1, 1)
    same(official_state_dict({"model": convolutions}), state)


def test_detectors_keep_the_network_below_backbone(network):
    body = {key: value for key, value in network.state_dict().items() if not key.startswith("classifier")}
    norms = {f"outnorm{stage}.weight": torch.rand(16 * 2**stage) for stage in range(4)}
    file = {f"backbone.{key}": value for key, value in (body | norms).items()} | {"neck.conv.weight": torch.rand(1)}
    got = official_state_dict({"state_dict": file, "meta": {}})
    same(got, body)
    assert torch.equal(got["outnorm2.weight"], norms["outnorm2.weight"])
    assert torch.equal(got["outnorm3.weight"], norms["outnorm3.weight"])


def test_classifier_norm_serves_a_stage_4_tap_without_a_norm_of_its_own(network):
    got = official_state_dict({"model": network.state_dict()})
    tapped = VMamba(embed_dim=16, depths=(1, 1, 1, 1), tap=(4, -1), norm="trained")
    tapped.load_state_dict({key: value for key, value in got.items() if not key.startswith(tapped.beyond_tap)})
    assert torch.equal(tapped.outnorm3.weight, network.classifier["norm"].weight)


def test_first_release_has_older_module_names():
    torch.manual_seed(0)
    arguments = {"embed_dim": 16, "depths": (1, 1, 1, 1), "d_state": 2, "ssm_ratio": 2.0, "mlp_ratio": 0.0}
    state = VMambaClassifier(num_classes=3, forward_type="v0", **arguments).state_dict()
    older = (
        (r"patch_embed\.0", "patch_embed.proj"),
        (r"patch_embed\.2", "patch_embed.norm"),
        (r"(blocks\.\d+)\.norm", r"\1.ln_1"),
        (r"(blocks\.\d+)\.op", r"\1.self_attention"),
        (r"classifier\.", ""),
    )
    renamed = {}
    for key, value in state.items():
        for today, then in older:
            key = re.sub(today, then, key)
        renamed[key] = value
    assert {
        "patch_embed.norm.weight",
        "layers.0.blocks.0.ln_1.bias",
        "layers.0.downsample.reduction.weight",
        "norm.bias",
    } <= set(renamed)
    same(official_state_dict({"model": renamed}), state)
