"""`controlled` and `as-published`: each questionable choice of the published study is a switch with both sides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from eyeswap.backbones import catalog
from eyeswap.backbones.mambavision import Attention, Mixer
from eyeswap.backbones.weights import load_backbone

WIRINGS = ("controlled", "as-published")
SHIPPED = ("digits-vit", "digits-maxvit", "digits-vmamba", "digits-mambavision")


def meta(name: str, wiring: catalog.Wiring) -> torch.nn.Module:
    with torch.device("meta"):
        return catalog.entry(name).build(wiring)


def geometry(name: str, wiring: catalog.Wiring = "controlled"):
    return catalog.entry(name).wired(wiring).geometry


# ---- frozen mode


@pytest.mark.parametrize("name", SHIPPED)
def test_controlled_tokens_stay_the_same_in_a_training_parent(name):
    loaded = load_backbone(name)
    image = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    before = loaded.network(image)
    state = {key: value.clone() for key, value in loaded.network.state_dict().items()}
    torch.nn.Sequential(loaded.network).train()
    assert torch.equal(loaded.network(image), before)
    assert all(torch.equal(value, state[key]) for key, value in loaded.network.state_dict().items())


def test_published_vmamba_drops_paths_while_its_parent_trains():
    loaded = load_backbone("digits-vmamba", wiring="as-published")
    image = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.nn.Sequential(loaded.network).train()
    torch.manual_seed(0)
    assert not torch.equal(loaded.network(image), loaded.network(image))
    loaded.network.eval()
    assert torch.equal(loaded.network(image), loaded.network(image))


@pytest.mark.parametrize("name", ["digits-maxvit", "digits-mambavision"])
def test_published_batch_norms_drift_while_their_parent_trains(name):
    loaded = load_backbone(name, wiring="as-published")
    state = {key: value.clone() for key, value in loaded.network.state_dict().items()}
    torch.nn.Sequential(loaded.network).train()
    loaded.network(torch.randn(4, 3, 128, 128))
    drifted = [key for key, value in loaded.network.state_dict().items() if not torch.equal(value, state[key])]
    assert any(key.endswith("running_mean") for key in drifted)
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("vmamba-tiny-s1l8", 0.1), ("vmamba-base-s2l15-maskrcnn-1x", 0.1), ("vmamba-small-vanilla", 0.1),
        ("vitdet-b-maskrcnn", 0.1), ("vitdet-l-maskrcnn", 0.4), ("vitdet-h-maskrcnn", 0.5),
        ("mambavision-t", 0.2), ("mambavision-b-s3", 0.3), ("mambavision-l3-512-21k", 0.5),
        ("vit-adapter-upernet-deit-s-ade20k-512", 0.2), ("vit-adapter-upernet-deit-b-ade20k-512", 0.3),
        ("vit-adapter-upernet-augreg-t-ade20k-512", 0.1), ("vit-adapter-upernet-augreg-l-ade20k-512", 0.4),
    ],
)  # fmt: skip
def test_published_stochastic_depth_is_that_of_the_release(name, rate):
    entry = catalog.entry(name)
    assert entry.wired("as-published").architecture["drop_path_rate"] == rate
    assert "drop_path_rate" not in entry.architecture


# ---- taps and norms


@pytest.mark.parametrize("name", ["mambavision-t-s3", "mambavision-l2-s3", "digits-mambavision"])
def test_mambavision_is_read_behind_its_mixers_or_as_published_before_them(name):
    grids, kinds = [], []
    for wiring in WIRINGS:
        network = meta(name, wiring)
        grids.append((network.token_grid(224, 224), network.embed_dim))
        kinds.append({type(module) for module in network.modules()} & {Mixer, Attention})
    assert grids[0] == grids[1]
    assert grids[0][0] == (14, 14)
    assert kinds == [{Mixer, Attention}, set()]


def test_published_vmamba_has_an_untrained_norm_behind_its_imagenet_tap():
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    plain, published = (load_backbone("digits-vmamba", wiring=wiring).network.eval()(image) for wiring in WIRINGS)
    assert torch.allclose(published, F.layer_norm(plain, plain.shape[-1:]), atol=1e-5)
    assert not torch.allclose(published, plain, atol=1e-2)


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize(
    "name", ["vmamba-tiny-s1l8-maskrcnn-1x", "vmamba-base-s2l15-ade20k", "vmamba-small-vanilla-ade20k"]
)
def test_detectors_and_segmentors_of_vmamba_keep_their_trained_norm(name, wiring):
    assert "outnorm2.weight" in meta(name, wiring).state_dict()


@pytest.mark.parametrize("name", ["vit-adapter-upernet-deit-s-ade20k-512", "vit-adapter-upernet-augreg-l-ade20k-512"])
def test_vit_adapter_is_read_at_the_papers_tokens_or_at_those_of_the_release(name):
    assert [meta(name, wiring).token_grid(512, 512) for wiring in WIRINGS] == [(32, 32), (16, 16)]


# ---- colours, crops, small images


def pixels(name: str, wiring: catalog.Wiring, image: Image.Image) -> torch.Tensor:
    return geometry(name, wiring).place(image)[0]


@pytest.mark.parametrize("name", ["in1k-384px-maxvit-t-s3", "in1k-512px-maxvit-l"])
def test_published_maxvit_gets_colours_it_was_not_trained_with(name):
    image = Image.new("RGB", (40, 40), (64, 128, 192))
    controlled, published = (pixels(name, wiring, image)[:, 100, 100] for wiring in WIRINGS)
    zero_to_one = torch.tensor([64, 128, 192]) / 255
    assert torch.allclose(controlled, (zero_to_one - 0.5) / 0.5, atol=1e-6)
    imagenet = (zero_to_one - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(published, imagenet, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("in1k-224px-maxvit-b-s3", 0.485), ("in21k-224px-maxvit-xl", 0.5), ("in21kft-384px-maxvit-b", 0.5),
        ("in1k-vit-s", 0.5), ("in21k-vit-l", 0.5), ("mambavision-t-s3", 0.485), ("vmamba-tiny-s1l8", 0.485),
    ],
)  # fmt: skip
def test_other_colours_are_the_same_in_both_wirings(name, mean):
    assert [geometry(name, wiring).mean[0] for wiring in WIRINGS] == [mean, mean]


@pytest.mark.parametrize(("name", "share"), [("in21k-vit-s", 224 / 248), ("in1k-vit-s", 1.0), ("in1kft-vit-b2", 1.0)])
def test_published_vits_without_in1k_lose_the_rim_of_the_image(name, share):
    for wiring, kept in zip(WIRINGS, (1.0, share), strict=True):
        placement = geometry(name, wiring).placement(1000, 1000)
        left, top, right, bottom = placement.convert((0, 0, 224, 224), "canvas", "image")
        assert ((right - left) / 1000, (bottom - top) / 1000) == pytest.approx((kept, kept), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "canvas", "share"),
    [
        ("vmamba-tiny-s1l8-maskrcnn-1x", (1333, 800), 0.288),
        ("vitdet-b-maskrcnn", (1024, 1024), 0.293),
        ("vmamba-small-s2l15-ade20k", (512, 512), 0.75),
        ("vit-adapter-upernet-deit-b-ade20k-512", (512, 512), 0.75),
    ],
)
def test_published_detection_leaves_a_small_image_in_its_corner(name, canvas, share):
    shares = []
    for wiring in WIRINGS:
        placement = geometry(name, wiring).placement(640, 480)
        left, top, right, bottom = placement.content_box
        assert placement.canvas_size == canvas
        assert (left, top) == (0, 0)
        shares.append((right - left) * (bottom - top) / (canvas[0] * canvas[1]))
    assert shares[1] == pytest.approx(share, abs=2e-3)
    assert shares[0] >= shares[1]
    if canvas != (512, 512):  # 640x480 is larger than that canvas: nothing to enlarge
        assert shares[0] > 0.74
