"""Token statistics, nearness to words, correspondence: on tokens of known make."""

from __future__ import annotations

import pytest
import torch

from eyeswap.backbones.weights import load_backbone
from eyeswap.probing.labelled import digits_images
from eyeswap.probing.measures import correspondence, token_statistics, word_alignment
from eyeswap.probing.sites import see


def test_the_effective_rank_is_the_number_of_equal_directions() -> None:
    tokens = torch.randn(50, 64, 16, generator=torch.Generator().manual_seed(0))
    assert token_statistics(tokens, (8, 8)).effective_rank == pytest.approx(16, rel=0.02)
    tokens[..., 4:] = 0
    assert token_statistics(tokens, (8, 8)).effective_rank == pytest.approx(4, rel=0.02)


def test_neighbours_that_say_the_same_are_seen() -> None:
    noise = torch.randn(20, 64, 8, generator=torch.Generator().manual_seed(0))
    blocks = noise.unflatten(1, (8, 8))[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    assert abs(token_statistics(noise, (8, 8)).spatial_autocorrelation) < 0.05
    assert token_statistics(blocks, (8, 8)).spatial_autocorrelation > 0.3


def test_words_themselves_are_fully_aligned() -> None:
    words = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
    assert word_alignment(words[:20].view(2, 10, 12), words) == pytest.approx(1.0)
    assert word_alignment(-words[:20].view(2, 10, 12), words) < 0.9


def test_a_backbone_finds_places_again_better_than_chance() -> None:
    images, backbone = digits_images(12), load_backbone("digits-vmamba")
    seen = see(backbone, images, torch.device("cpu"), lambda count: None)
    found = correspondence(backbone, images, seen.tokens, seen.placements)
    shuffled = correspondence(backbone, images, seen.tokens.roll(1, 0), seen.placements)
    assert 0 < shuffled < found <= 1
