"""Vim in the small; the recorded outputs of the official sizes are compared in ``tests/goldens``."""

import argparse
import json
import os
import zlib
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from classifiers import VimClassifier
from eyeswap.backbones import catalog
from eyeswap.backbones.state import load_state
from eyeswap.backbones.vim import Mixer, Vim
from eyeswap.backbones.weights import load_backbone
from eyeswap.errors import CheckpointError, ShapeError, SpecError
from eyeswap.ops import selective_scan_reference

SMALL = {"img_size": 32, "patch_size": 8, "stride": 8, "embed_dim": 16, "depth": 3, "d_state": 4}


def small(**changes):
    torch.manual_seed(0)
    return Vim(**(SMALL | changes)).eval()


def error(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize(
    ("height", "width", "stride", "grid"),
    [(224, 224, 16, (14, 14)), (224, 224, 8, (27, 27)), (192, 320, 16, (12, 20)), (208, 240, 8, (25, 29))],
)
def test_token_grid_is_exact(height, width, stride, grid):
    assert Vim(embed_dim=16, depth=1, tap=0, stride=stride).token_grid(height, width) == grid


@pytest.mark.parametrize("size", [(225, 224), (224, 15), (8, 224), (224, 230)])
def test_images_that_patches_do_not_cover_are_refused(size):
    with pytest.raises(ShapeError, match=f"image of {size[0]}x{size[1]} pixels"):
        Vim(embed_dim=16, depth=1, tap=0).token_grid(*size)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (8, 8)])
def test_the_class_token_stands_in_the_middle_and_is_no_token_of_the_output(size):
    network = small(tap=0)
    rows, columns = network.token_grid(*size)
    network.layers[0].mixer.out_proj.weight.data.zero_()  # the stream stays what was embedded
    network.cls_token.data.fill_(100.0)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        sequence, tokens = network.sequence(image), network(image)
    middle = rows * columns // 2
    assert sequence.shape == (2, rows * columns + 1, 16)
    assert (sequence[:, middle] > 50).all()
    assert tokens.abs().max() < 50
    assert torch.equal(tokens, torch.cat([sequence[:, :middle], sequence[:, middle + 1 :]], 1))


def test_the_class_token_takes_part_in_the_scans():
    network, image = small(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        before = network(image)
        network.cls_token.add_(torch.randn(1, 1, 16))
        assert error(network(image), before) > 1e-3


def test_the_middle_row_of_the_position_table_is_the_class_tokens_at_every_size():
    network = small(tap=0)
    network.layers[0].mixer.out_proj.weight.data.zero_()
    network.pos_embed.data.zero_()
    network.pos_embed.data[:, 8] = 1000.0  # 16 patches: row 8 is the class token's
    with torch.no_grad():
        for size in ((32, 32), (64, 24), (40, 40)):
            assert network(torch.randn(1, 3, *size)).abs().max() < 500


GOLDENS = Path(os.environ.get("EYESWAP_GOLDENS") or Path(__file__).parents[1] / "goldens" / "data")


@pytest.mark.parametrize("case", ["14x14_to_27x27", "14x14_to_16x16"])
def test_resized_tables_are_the_recorded_ones_with_the_middle_row_kept(case, drawn_table):
    table, cases = drawn_table
    recorded = cases[case]["float64"]["middle_row_is_extra"]
    network = Vim(embed_dim=192, depth=1, tap=0).double()
    network.pos_embed.data = table.double()
    rows, columns = map(int, case.split("_to_")[1].split("x"))
    flat = network._positions((rows, columns)).detach().flatten()
    got, want = flat[[int(index) for index in recorded]], torch.tensor(list(recorded.values()), dtype=torch.float64)
    assert error(got, want) < 1e-9


@pytest.fixture
def drawn_table():
    golden = json.loads(next(GOLDENS.rglob("vim_pos_embed_resize.json")).read_text())
    generator = torch.Generator().manual_seed(zlib.crc32(b"pos_embed"))
    return 0.2 * torch.randn(1, 197, 192, generator=generator), golden["cases"]


def test_the_mixer_is_two_scans_of_their_own_halved_and_gated():
    torch.manual_seed(0)
    mixer, x = Mixer(16, 4, 2, 4).double(), torch.randn(2, 9, 16, dtype=torch.float64)
    for parameter in mixer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    with torch.no_grad():
        inner, gate = mixer.in_proj(x).chunk(2, dim=2)
        total = 0
        for way, rows in (("", inner), ("_b", inner.flip(1))):
            conv, x_proj, dt_proj = (getattr(mixer, f"{name}{way}") for name in ("conv1d", "x_proj", "dt_proj"))
            seen = F.silu(conv(F.pad(rows.transpose(1, 2), (3, 0))))  # causal in the order of its scan
            code, b, c = x_proj(seen.transpose(1, 2)).split([1, 4, 4], dim=2)
            delta = F.linear(code, dt_proj.weight).transpose(1, 2)
            a = -getattr(mixer, "A_b_log" if way else "A_log").exp()
            skip = getattr(mixer, f"D{way}")
            y, _ = selective_scan_reference(
                seen, delta, a, b.transpose(1, 2), c.transpose(1, 2), skip, dt_proj.bias, True
            )
            total = total + (y.flip(2) if way else y)
        want = mixer.out_proj((total.transpose(1, 2) * F.silu(gate)) / 2)
        assert error(mixer(x), want) < 1e-13


def test_the_stream_stays_in_float32_under_half_precision():
    network, seen = small().bfloat16(), []
    network.layers[1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.no_grad():
        assert network(torch.randn(1, 3, 32, 32).bfloat16()).dtype == torch.bfloat16
    assert seen == [(torch.float32, torch.float32)]


def test_the_tap_cuts_the_network_and_the_final_norm_is_explicit():
    whole = small(tap=-1, final_norm=True).state_dict()
    cut = small()
    assert set(whole) - set(cut.state_dict()) == {key for key in whole if key.startswith(("layers.2.", "norm_f."))}
    load_state(cut, whole, source="test")
    with pytest.raises(SpecError, match="block 3"):
        small(tap=3)


def test_every_parameter_learns():
    network = small(tap=-1, final_norm=True).train()
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_the_older_layout_is_refused_by_its_rotary_buffers():
    network = small()
    state = network.state_dict() | {"rope.freqs_cos": torch.zeros(16, 8)}
    with pytest.raises(CheckpointError, match="older Vim"):
        load_state(network, state, source="old.pth")


def test_the_classifier_reads_the_class_token():
    torch.manual_seed(0)
    network = VimClassifier(num_classes=5, **SMALL).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 5)
        assert network.class_token(torch.randn(2, 3, 32, 32)).shape == (2, 16)


@pytest.fixture
def training_checkpoint(tmp_path, monkeypatch):
    """A whole training checkpoint for a tiny Vim, as the authors' script writes them, under the name of an entry."""
    entry = catalog.entry("vim-tiny")
    tiny = entry.model_copy(update={"architecture": {**SMALL}, "size": None})
    monkeypatch.setattr(catalog, "find", lambda name, known=catalog.find: _swapped(known(name), entry, tiny))
    states = {key: small(tap=-1, final_norm=True).state_dict() for key in ("model", "model_ema")}
    states["model_ema"] = {key: value + 1 for key, value in states["model_ema"].items()}
    path = tmp_path / entry.weights.file
    torch.save({**states, "optimizer": {"state": {}}, "epoch": 299, "args": argparse.Namespace(lr=1)}, path)
    return path, states


def _swapped(found, entry, tiny):
    if found is None or not found.name.startswith(entry.name):
        return found
    return tiny.model_copy(update={"name": found.name, "weights": found.weights})


def test_a_training_checkpoint_is_read_under_the_key_that_is_named_and_recorded(training_checkpoint):
    path, states = training_checkpoint
    for name, key in (("vim-tiny", "model"), ("vim-tiny:model", "model"), ("vim-tiny:model_ema", "model_ema")):
        loaded = load_backbone(name, path)
        assert torch.equal(loaded.network.cls_token, states[key]["cls_token"])
        assert loaded.record()["weights_key"] == key
    assert load_backbone("vim-tiny:model", path).name == "vim-tiny"
    assert load_backbone("vim-tiny:model_ema", path).name == "vim-tiny:model_ema"


def test_averaged_weights_are_named_where_the_catalog_wants_them():
    assert {name: catalog.entry(name).weights.key for name in ("vim-tiny", "vim-small-ft", "vim-base")} == {
        "vim-tiny": "model", "vim-small-ft": "model", "vim-base": "model_ema",
    }  # fmt: skip
    for name in ("vim-base:ema", "digits-vit:model", "vim-base:"):
        with pytest.raises(SpecError):
            catalog.entry(name)
