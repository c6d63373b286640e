from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from eyeswap.backbones.external import JoinedBackbones
from eyeswap.backbones.weights import check_backbone, load_backbone
from eyeswap.errors import CheckpointError, EnvironmentProblem, ShapeError, SpecError
from eyeswap.geometry import DEFAULT_GEOMETRY

ENCODER = """
from torch import nn
from eyeswap.backbones.base import VisionBackbone
from eyeswap.geometry import ImageGeometry

class Patches(VisionBackbone):
    embed_dim = 8
    def __init__(self):
        super().__init__()
        self.project = nn.Conv2d(3, 8, 8, 8)
    def feature_map(self, pixel_values):
        return self.project(pixel_values).permute(0, 2, 3, 1)
    def token_grid(self, height, width):
        return height // 8, width // 8

def build():
    return Patches(), ImageGeometry(canvas=(64, 64))

def alone():
    return Patches()

def number():
    return 3

def broken():
    raise KeyError("no such key")
"""

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the timm extra")


@pytest.fixture
def encoder(tmp_path):
    path = tmp_path / "my_encoder.py"
    path.write_text(ENCODER)
    return path


def test_an_encoder_of_ones_own_is_loaded_frozen(encoder):
    loaded = load_backbone(f"{encoder}:build")
    assert (loaded.family, loaded.token_grid) == ("own", (8, 8))
    assert not loaded.network.training
    assert loaded.network(torch.zeros(1, 3, 64, 64)).shape == (1, 64, 8)
    assert load_backbone(f"{encoder}:alone").geometry == DEFAULT_GEOMETRY
    assert load_backbone(f"{encoder}:build", geometry="squash-32").token_grid == (4, 4)


def test_fresh_weights_of_ones_own_encoder_are_the_same_every_time(encoder):
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        digests.add(load_backbone(f"{encoder}:build").weights_sha256)
        assert torch.initial_seed() == seed  # the caller's generator is left alone
    assert len(digests) == 1


def test_weights_for_ones_own_encoder_are_strict(encoder):
    with pytest.raises(CheckpointError, match="missing key project"):
        load_backbone(f"{encoder}:build", {})
    state = {"project.weight": torch.zeros(8, 3, 8, 8), "project.bias": torch.ones(8)}
    assert bool((load_backbone(f"{encoder}:build", state).network(torch.randn(1, 3, 64, 64)) == 1).all())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("absent", "has no function absent"),
        ("number", "returned int"),
        ("broken", r"broken\(\) failed: KeyError: 'no such key'"),
    ],
)
def test_mistakes_in_ones_own_encoder_are_one_line(encoder, function, message):
    with pytest.raises(SpecError, match=message) as caught:
        load_backbone(f"{encoder}:{function}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_cannot_be_imported_is_named(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        load_backbone(f"{tmp_path}/absent.py:build")
    (tmp_path / "bad.py").write_text("import no_such_module_here")
    with pytest.raises(SpecError, match=r"bad\.py: import failed: ModuleNotFoundError"):
        load_backbone(f"{tmp_path}/bad.py:build")
    with pytest.raises(SpecError, match="tap cannot be set"):
        load_backbone(f"{tmp_path}/bad.py:build", tap="3")


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_without_the_extra_says_how_to_get_it():
    with pytest.raises(EnvironmentProblem, match=r"pip install 'eyeswap\[timm\]'"):
        load_backbone("timm:vit_small_patch14_dinov2")


def test_a_timm_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("raise RuntimeError('no such operator\\nat line 3')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(EnvironmentProblem, match=r"cannot be imported .*no such operator.*built for torch") as caught:
        load_backbone("timm:vit_small_patch14_dinov2")
    assert "\n" not in str(caught.value)


@needs_timm
@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "convnext_atto"])
def test_timm_models_give_tokens(model):
    import timm

    from eyeswap.backbones.external import from_timm

    whole = timm.create_model(model, pretrained=False, num_classes=10)
    network = load_backbone(f"timm:{model}", whole.state_dict()).network
    assert network.num_parameters < sum(parameter.numel() for parameter in whole.parameters())
    network, geometry = from_timm(model, None, pretrained=False)
    height, width = geometry.canvas
    with torch.no_grad():
        tokens = network.freeze()(torch.randn(1, 3, height, width))
    rows, columns = network.token_grid(height, width)
    assert tokens.shape == (1, rows * columns, network.embed_dim)
    with pytest.raises(SpecError, match="timm:no_such_model"):
        from_timm("no_such_model", None, pretrained=False)


def test_joined_backbones_give_both_tokens_side_by_side_each_in_its_own_colours(encoder):
    parts = [load_backbone(f"{encoder}:{name}") for name in ("build", "build")]
    other = parts[1].geometry.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)})
    joined = JoinedBackbones([part.network for part in parts], [parts[0].geometry, other])
    assert (joined.embed_dim, joined.token_grid(64, 64)) == (16, (8, 8))
    colours = torch.rand(1, 3, 64, 64)
    own = [
        (colours - torch.tensor(geometry.mean).view(3, 1, 1)) / torch.tensor(geometry.std).view(3, 1, 1)
        for geometry in (parts[0].geometry, other)
    ]
    expected = torch.cat([part.network(pixels) for part, pixels in zip(parts, own, strict=True)], dim=2)
    torch.testing.assert_close(joined(own[0]), expected, rtol=1e-5, atol=1e-5)


@needs_timm
def test_timm_models_can_be_joined_and_built_for_another_size():
    from eyeswap.backbones.external import from_timm

    network, geometry = from_timm("vit_tiny_patch16_224@128+vit_tiny_patch16_384@128", None, pretrained=False)
    assert (geometry.canvas, network.embed_dim, network.token_grid(128, 128)) == ((128, 128), 384, (8, 8))
    with pytest.raises(SpecError, match="add @<side> to one of them"):
        from_timm("vit_tiny_patch16_224+vit_tiny_patch16_384", None, pretrained=False)
    with pytest.raises(SpecError, match="side of the image in pixels"):
        from_timm("vit_tiny_patch16_224@big", None, pretrained=False)


def test_a_file_is_imported_as_a_script_would_be(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    head = "from __future__ import annotations\nimport dataclasses\nfrom beside import WIDTH\n"
    config = "@dataclasses.dataclass\nclass Config:\n    width: int = WIDTH\n"
    (tmp_path / "mine.py").write_text(head + config + ENCODER)
    before = list(sys.path)
    assert load_backbone(f"{tmp_path}/mine.py").network.embed_dim == 8  # build() where no function is named
    assert sys.path == before


@needs_timm
@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "convnext_atto"])
def test_timm_models_keep_the_contract(model):
    from eyeswap.backbones.conformance import assert_conforms
    from eyeswap.backbones.weights import build_backbone

    torch.manual_seed(0)
    assert_conforms(*build_backbone(f"timm:{model}"))


@needs_timm
@pytest.mark.parametrize(
    "model",  # their heads: fc, classifier, head and head_dist, head.fc.fc1 and so on, head.bn and head.l
    ["resnet10t", "test_efficientnet", "deit_tiny_distilled_patch16_224", "caformer_s18", "levit_128s"],
)
def test_complete_files_of_timm_models_load_whatever_their_head_is_called(model):
    import timm

    from eyeswap.backbones.external import from_timm
    from eyeswap.backbones.state import fit_state

    with torch.device("meta"):
        network, _ = from_timm(model, None, pretrained=False)
        complete = timm.create_model(model).state_dict()
        headless = timm.create_model(model, num_classes=0)
    headless.prune_intermediate_layers([-2], prune_norm=True, prune_head=True)
    assert set(network.state_dict()) == {f"network.{key}" for key in headless.state_dict()}
    fit_state(network, {f"network.{key}": value for key, value in complete.items()}, model)
    with pytest.raises(CheckpointError, match=r"unexpected key network\.other\.weight; is this the right file"):
        fit_state(
            network, {**{f"network.{key}": value for key, value in complete.items()}, "network.other.weight": 0}, ""
        )


@needs_timm
def test_a_timm_model_takes_back_its_own_state():
    from eyeswap.backbones.external import from_timm

    network, _ = from_timm("resnet10t", None, pretrained=False)
    again = load_backbone("timm:resnet10t", network.state_dict()).network
    assert all(value.equal(network.state_dict()[key]) for key, value in again.state_dict().items())


@needs_timm
def test_a_machine_without_a_network_is_told_at_once(monkeypatch):
    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", no_network)
    for try_it in (load_backbone, check_backbone):
        with pytest.raises(CheckpointError, match=r"timm/resnet10t\..* not in the Hub's cache .*`weights:` of the arm"):
            try_it("timm:resnet10t")


@needs_timm
def test_a_timm_model_without_a_fixed_grid_is_refused_in_one_line():
    from eyeswap.backbones.external import from_timm

    with torch.device("meta"), pytest.raises(SpecError, match="gives no features in a grid") as caught:
        from_timm("gemma4_vit_167m", None, pretrained=False)
    assert "\n" not in str(caught.value)


@needs_timm
def test_timm_models_refuse_sizes_that_they_cannot_take():
    from eyeswap.backbones.external import from_timm

    network, _ = from_timm("vit_tiny_patch16_224", None, pretrained=False)
    assert network.token_grid(224, 448) == (14, 28)
    with pytest.raises(ShapeError, match=r"image of 197x131 pixels: .*divisible by patch size") as caught:
        network.token_grid(197, 131)
    assert "\n" not in str(caught.value)
