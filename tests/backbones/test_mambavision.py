"""MambaVision in the small; the recorded outputs of the official sizes are compared in ``tests/goldens``."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyeswap.backbones.mambavision import Attention, MambaVision, Mixer, join_windows, split_windows
from eyeswap.errors import SpecError


def small(**changes):
    torch.manual_seed(0)
    given_here = {"dim": 16, "in_dim": 8, "depths": (1, 1, 3, 2), "num_heads": (1, 1, 2, 4)}
    return MambaVision(**given_here | {"window_size": (8, 8, 3, 2), "tap": (2, "before")} | changes)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 4), st.integers(1, 5))
def test_windows_are_cut_and_joined_without_loss(shape, window):
    x = torch.rand(shape)
    windows, (rows, columns) = split_windows(x, window)
    assert windows.shape == (shape[0] * rows * columns, window**2, shape[1])
    joined = join_windows(windows, window, (rows, columns))
    assert torch.equal(joined[:, :, : shape[2], : shape[3]], x)
    assert joined.sum() == pytest.approx(x.sum().item(), rel=1e-5)  # the padding is zero


def test_windows_and_their_tokens_run_row_by_row():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    windows, grid = split_windows(x, 2)
    assert grid == (2, 2)
    assert windows[..., 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize(
    ("tap", "grid"),
    [((0, "before"), (56, 56)), ((1, "after"), (14, 14)), ((2, "before"), (14, 14)), ((2, "after"), (7, 7)),
     ((3, "before"), (7, 7)), ((3, "norm"), (7, 7))],
)  # fmt: skip
def test_token_grid_is_exact_at_every_tap(tap, grid):
    network = small(tap=tap)
    assert network.token_grid(224, 224) == grid
    assert network.embed_dim == 16 * 56 // grid[0]


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70),
    st.sampled_from([(1, "before"), (1, "after"), (2, "before"), (2, "after"), (3, "norm")]),
)  # fmt: skip
def test_token_grid_is_that_of_the_network(height, width, tap):
    network = small(tap=tap).eval()
    rows, columns = network.token_grid(height, width)
    with torch.no_grad():
        tokens = network(torch.rand(1, 3, height, width))
    assert tokens.shape == (1, rows * columns, network.embed_dim)


def test_first_half_of_a_level_scans_and_the_second_attends():
    network = small(depths=(1, 1, 5, 4), tap=(3, "norm"))
    kinds = [[type(block.mixer) for block in network.levels[level].blocks] for level in (2, 3)]
    assert kinds == [[Mixer] * 3 + [Attention] * 2, [Mixer] * 2 + [Attention] * 2]


def test_published_tap_has_neither_scan_nor_attention():
    assert not any(isinstance(module, Mixer | Attention) for module in small(tap=(1, "after")).modules())


def test_layers_after_the_tap_are_not_built():
    whole = small(tap=(3, "norm")).state_dict()
    for tap in ((0, "after"), (1, "before"), (2, "before"), (2, "after"), (3, "before")):
        cut = small(tap=tap)
        assert set(cut.state_dict()) == {key for key in whole if not key.startswith(cut.beyond_tap)}


def test_layer_scale_exists_only_where_asked_for_and_scales_both_branches():
    image = torch.rand(1, 3, 48, 48)
    scaled = small(layer_scale=0.0).eval()
    assert {key for key in scaled.state_dict() if "gamma" in key} == {
        f"levels.2.blocks.{block}.gamma_{branch}" for block in range(3) for branch in (1, 2)
    }
    assert not any("gamma" in key for key in small().state_dict())
    with torch.no_grad():
        without_blocks = small(tap=(1, "after")).eval()
        without_blocks.load_state_dict({key: scaled.state_dict()[key] for key in without_blocks.state_dict()})
        assert torch.equal(scaled(image), without_blocks(image))


def test_a_window_does_not_see_the_others():
    network = small(tap=(2, "before")).eval()
    features = torch.rand(1, 64, 6, 6)
    changed = features.clone()
    changed[:, :, :3, :3] += 1
    with torch.no_grad():
        difference = (network.levels[2](changed) - network.levels[2](features)).abs().amax(1)[0]
    assert difference[:3, :3].min() > 0
    assert difference[3:].max() == difference[:, 3:].max() == 0


@pytest.mark.parametrize("tap", [(4, "before"), (-1, "before"), (3, "after"), (2, "norm"), (2, "befor")])
def test_tap_that_does_not_exist_is_an_error(tap):
    with pytest.raises(SpecError, match="tap"):
        small(tap=tap)


def test_every_parameter_learns():
    network = small(tap=(3, "norm"), layer_scale=0.1).train()
    torch.manual_seed(1)
    tokens = network(torch.rand(2, 3, 64, 64))
    (tokens * torch.randn_like(tokens)).sum().backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_few_steps_from_scratch_reduce_the_loss():
    network = small(drop_path_rate=0.1).train()
    image, target = torch.randn(4, 3, 48, 48), torch.randn(4, 9, 64)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = (network(image) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_frozen_network_keeps_its_statistics_and_its_answer():
    network = small(drop_path_rate=0.5).freeze()
    image = torch.rand(2, 3, 48, 48)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    still = network(image)
    assert torch.equal(network.train()(image), still)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_scan_starts_as_the_official_one_does():
    mixer = small().levels[2].blocks[0].mixer
    steps = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert 1e-3 * 0.999 <= steps.min() <= steps.max() <= 0.1 * 1.001
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 9.0).expand(32, 8))
