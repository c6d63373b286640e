"""Where answers come from: attention as transformers reports it, similarity without it, and the place in the image."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.vlm.tiny_llms import of_kind

from eyeswap.backbones.weights import load_backbone
from eyeswap.probing.looks import look, measure_of
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm
from eyeswap.vlm.text_ids import text_ids

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))


def small_vlm(llm_folder, connector="gelu-mlp", geometry="letterbox-64"):
    backbone = load_backbone("digits-vit", geometry=geometry)
    llm, tokenizer, prompt = load_llm(llm_folder)
    grid = backbone.network.token_grid(*backbone.geometry.canvas)
    layers = build_connector(connector, 128, llm.config.hidden_size, seed=1, grid=grid)
    return VisionLanguageModel.from_parts(llm, tokenizer, layers, prompt, backbone).eval()


@pytest.fixture(scope="module")
def stateful_llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mamba")
    for part in of_kind("mamba"):
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("connector", "grid"), [("gelu-mlp", (4, 4)), ("pool-2x2+gelu-mlp", (2, 2))])
def test_weights_are_the_attention_that_transformers_reports(tiny_llm, connector, grid):
    vlm = small_vlm(tiny_llm, connector)
    prompt, answer = vlm.prompt.question("How many digits are there?"), "two of them"
    found = look(vlm, PICTURE, prompt, answer)
    assert (found.measure, found.grid) == ("attention", grid)

    said = text_ids(vlm.tokenizer, [answer], begins=False)[0]
    assert len(said) > 1
    ids = vlm.insert_visual(text_ids(vlm.tokenizer, [prompt], begins=True)[0] + said, 16)
    tokens = vlm.encode(vlm.processor.image_geometry.place(PICTURE)[0][None])
    vlm.llm.set_attn_implementation("eager")
    with torch.inference_mode():
        embedded = vlm.embed(torch.tensor([ids]), tokens)
        attentions = vlm.llm(inputs_embeds=embedded, output_attentions=True).attentions
    rows = torch.stack(attentions)[:, 0, :, len(ids) - len(said) - 1 : -1]  # the positions that predict each word
    start = int(vlm.config.bos_first)
    expected = rows.mean((0, 1, 2))[start : start + grid[0] * grid[1]]
    assert found.weights == pytest.approx((expected / expected.max()).tolist(), rel=1e-4)


def test_the_llm_attends_as_before_afterwards(tiny_llm):
    vlm = small_vlm(tiny_llm)
    before = vlm.llm.config._attn_implementation
    look(vlm, PICTURE, vlm.prompt.question("What?"), "one")
    assert vlm.llm.config._attn_implementation == before


def test_an_llm_without_attention_shows_similarity(stateful_llm):
    vlm = small_vlm(stateful_llm)
    assert measure_of(vlm) == "similarity"
    found = look(vlm, PICTURE, vlm.prompt.question("What?"), "one")
    assert (min(found.weights), max(found.weights), len(found.weights)) == (0, 1, 16)


@pytest.mark.parametrize(
    ("geometry", "canvas"),
    [
        ("letterbox-64", (0, -0.25, 1, 1.25)),  # padded above and below
        ("squash-64", (0, 0, 1, 1)),
        ("corner-letterbox-64x128", (0, 0, 4 / 3, 1)),
        ("resize-crop-64", (1 / 6, 0, 5 / 6, 1)),
    ],
)
def test_the_grid_covers_the_canvas(tiny_llm, geometry, canvas):
    found = look(small_vlm(tiny_llm, geometry=geometry), PICTURE, "What?", "one")
    assert found.canvas == pytest.approx(canvas, abs=0.02)


def test_what_cannot_be_placed_is_none(tiny_llm):
    assert look(small_vlm(tiny_llm, "resampler-4+gelu-mlp"), PICTURE, "What?", "one") is None
    assert look(small_vlm(tiny_llm), PICTURE, "What?", "") is None
