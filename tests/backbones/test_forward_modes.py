"""Every family in every mode of running: compiled, in bfloat16, channels-last, in batches of any size.

Each mode is compared with the plain float32 forward. Networks are tiny and see images that are not square.
Weights are drawn so that every part shows in the output: under the usual starting weights the scan does not.
"""

from __future__ import annotations

import copy
import functools
import math
import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eyeswap.backbones.beit import BEiTAdapter
from eyeswap.backbones.mambavision import MambaVision
from eyeswap.backbones.maxvit import MaxViT
from eyeswap.backbones.spatial_mamba import SpatialMamba
from eyeswap.backbones.uniperceiver import UniPerceiverAdapter
from eyeswap.backbones.vim import Vim
from eyeswap.backbones.vit import ViT
from eyeswap.backbones.vit_adapter import ViTAdapter
from eyeswap.backbones.vitdet import ViTDet
from eyeswap.backbones.vmamba import VMamba
from eyeswap.errors import ShapeError

ADAPTER = {
    "pretrain_size": 64, "embed_dim": 24, "depth": 4, "num_heads": 2, "conv_inplane": 4, "deform_num_heads": 3,
    "interaction_indexes": ((0, 0), (1, 1), (2, 2), (3, 3)),
}  # fmt: skip
FAMILIES = {
    "vit": lambda: ViT(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2),
    "maxvit": lambda: MaxViT(stem_dim=8, dims=(8, 16), depths=(1, 1), window=2, head_dim=8, tap=2),
    "vmamba": lambda: VMamba(embed_dim=16, depths=(1, 1, 1)),
    "vmamba-v0": lambda: VMamba(
        embed_dim=8, depths=(1, 1), d_state=3, ssm_ratio=2.0, mlp_ratio=0.0, forward_type="v0", tap=(2, -1)
    ),
    "mambavision": lambda: MambaVision(dim=16, in_dim=8, depths=(1, 1, 2, 1), window_size=(8, 8, 3, 4)),
    "vitdet": lambda: ViTDet(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, window_size=3, window_block_indexes=(0,),
        pretrain_img_size=32,
    ),
    "vit-adapter": lambda: ViTAdapter(**ADAPTER),
    "beit-adapter": lambda: BEiTAdapter(**ADAPTER),
    "uniperceiver-adapter": lambda: UniPerceiverAdapter(**ADAPTER, windows=(3, None, None, 2)),
    "vmamba-2d": lambda: VMamba(embed_dim=16, depths=(1, 1), scan="2d", tap=(2, -1)),
    "vim": lambda: Vim(img_size=32, patch_size=8, stride=8, embed_dim=16, depth=3, d_state=4),
    "spatial-mamba": lambda: SpatialMamba(embed_dim=8, depths=(1, 1), tap=(2, -1)),
}  # fmt: skip
SCANNING = ("vmamba", "vmamba-v0", "mambavision", "vim", "spatial-mamba")
HEIGHT, WIDTH = 32, 64

# Relative L2. In float32 a mode only reorders sums; in bfloat16 each layer rounds, and blocks add their errors up.
FLOAT32 = 16 * torch.finfo(torch.float32).eps
BFLOAT16 = 4 * torch.finfo(torch.bfloat16).eps


def lively(model):
    """Draw weights under which every part matters, and freeze."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if "x_proj" in name or name.endswith("dt_projs_weight"):
                gain = 2 if "x_proj" in name else 1  # B and C multiply
                parameter.copy_(gain * noise * parameter.shape[-1] ** -0.5)
            elif name.endswith(("dt_projs_bias", "dt_proj.bias", "dt_proj_b.bias")):
                parameter.copy_(0.3 * noise - 1)  # step sizes of about 0.3, so that states change within a few steps
            elif parameter.ndim >= 2 and "_log" not in name:
                parameter.copy_(noise * math.prod(parameter.shape[1:]) ** -0.5)
            else:
                parameter.add_(0.1 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.1 * torch.rand(buffer.shape))
    return model.freeze()


@functools.cache
def network(family):
    return lively(FAMILIES[family]())


@functools.cache
def images(batch=3):
    return torch.randn(batch, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(batch))


@functools.cache
def plain(family):
    with torch.no_grad():
        return network(family)(images())


def error(got, want):
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def compiled(family):
    torch._dynamo.reset()
    return torch.compile(network(family), backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_makes_no_graph_of_gradients(family):
    assert not network(family)(images()).requires_grad
    assert torch.equal(network(family)(images()), plain(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_last_images_and_weights_give_the_same_tokens(family):
    turned = copy.deepcopy(network(family)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for model in (network(family), turned):
            assert error(model(images().to(memory_format=torch.channels_last)), plain(family)) < FLOAT32


@pytest.mark.parametrize("batch", [1, 2, 7, 256])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_of_any_size_give_what_single_images_give(family, batch):
    with torch.no_grad():
        tokens = network(family)(images(batch))
        assert tokens.shape == (batch, *plain(family).shape[1:])
        for index in {0, batch // 2, batch - 1}:
            assert error(tokens[index], network(family)(images(batch)[index : index + 1])[0]) < FLOAT32


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_around_a_frozen_network_changes_no_bit(family):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(family)(images()), plain(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_reaches_a_network_that_is_trained(family):
    trained = copy.deepcopy(network(family)).requires_grad_()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert 0 < error(trained(images()), plain(family)) < BFLOAT16


@pytest.mark.parametrize("family", FAMILIES)
def test_no_images_give_no_tokens(family):
    assert network(family)(images()[:0]).shape == (0, *plain(family).shape[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_images_without_pixels_are_refused_in_one_line(family):
    for size in ((0, WIDTH), (HEIGHT, 0), (0, 0)):
        with pytest.raises(ShapeError, match=f"image of {size[0]}x{size[1]} pixels") as caught:
            network(family)(torch.empty(1, 3, *size))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_cast_to_bfloat16_gives_the_same_tokens_up_to_bfloat16(family):
    half = copy.deepcopy(network(family)).bfloat16()
    with torch.no_grad():
        tokens = half(images().bfloat16())
    assert tokens.dtype == torch.bfloat16
    assert 0 < error(tokens, plain(family)) < BFLOAT16


class OperatorDtypes(TorchDispatchMode):
    """Note the floating dtypes that eyeswap's own operators are given."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.namespace == "eyeswap":
            floats = {t.dtype for t in arguments if isinstance(t, torch.Tensor) and t.is_floating_point()}
            self.seen.setdefault(function.name(), set()).update(floats)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("family", SCANNING)
def test_the_scan_of_a_bfloat16_network_runs_in_float32(family):
    half = copy.deepcopy(network(family)).bfloat16()
    trained = copy.deepcopy(network(family)).requires_grad_()  # else autocast does not reach it
    for model, inputs in ((half, images().bfloat16()), (trained, images())):
        with (
            torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16, enabled=model is not half),
            OperatorDtypes() as noted,
        ):
            model(inputs)
        assert noted.seen
        assert all(dtypes == {torch.float32} for dtypes in noted.seen.values())


@pytest.mark.parametrize("family", SCANNING)
def test_the_scan_shows_in_the_tokens(family):
    without = copy.deepcopy(network(family))
    with torch.no_grad():
        for name, parameter in without.named_parameters():
            if "x_proj" in name:
                parameter.zero_()
        assert error(without(images()), plain(family)) > 0.1


COMPILED = ("vmamba",)  # the others take minutes together


@pytest.mark.parametrize(
    "family", [name if name in COMPILED else pytest.param(name, marks=pytest.mark.extended) for name in FAMILIES]
)
def test_a_compiled_network_gives_the_same_tokens(family):
    model = compiled(family)
    with torch.no_grad():
        assert error(model(images()), plain(family)) < FLOAT32


@pytest.mark.extended
@pytest.mark.parametrize("family", ["vmamba-v0", "mambavision"])
def test_gradients_pass_through_a_compiled_scan(family):
    pixels = images().clone().requires_grad_()
    gradients = []
    for model in (network(family), compiled(family)):
        model(pixels).square().sum().backward()
        gradients.append(pixels.grad)
        pixels.grad = None
    assert error(*gradients) < FLOAT32


@pytest.mark.extended
@pytest.mark.parametrize("family", ["vit", "vmamba"])
def test_one_compiled_network_takes_batches_of_several_sizes(family):
    model = compiled(family)
    for batch in (2, 5):
        torch._dynamo.mark_dynamic(images(batch), 0)
        with torch.no_grad():
            assert error(model(images(batch)), network(family)(images(batch))) < FLOAT32


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for inductor")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own, on import
def test_inductor_gives_the_same_tokens(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    one_block = (VMamba(embed_dim=16, depths=(1,), tap=(1, -1)), ViT(img_size=32, patch_size=8, depth=1, tap=0))
    for model in one_block:
        lively(model)
        torch._dynamo.reset()
        with torch.no_grad():
            got = torch.compile(model, fullgraph=True, dynamic=False)(images())
            assert error(got, model(images())) < FLOAT32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_gives_the_same_tokens_in_every_mode(family):
    model = copy.deepcopy(network(family)).cuda()
    pixels = images().cuda()
    torch._dynamo.reset()
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        for inputs in (pixels, pixels.to(memory_format=torch.channels_last)):
            assert error(model(inputs).cpu(), plain(family)) < 4 * FLOAT32
            with torch.autocast("cuda", torch.bfloat16):
                assert error(model(inputs).cpu(), plain(family)) < 4 * FLOAT32
        assert error(torch.compile(model, fullgraph=True, dynamic=False)(pixels).cpu(), plain(family)) < 4 * FLOAT32
        assert error(copy.deepcopy(model).bfloat16()(pixels.bfloat16()).cpu(), plain(family)) < BFLOAT16
        assert error(model(images(256).cuda()).cpu(), network(family)(images(256))) < 4 * FLOAT32
