from pathlib import Path

import pytest
import torch

from eyeswap.backbones.weights import load_backbone
from eyeswap.errors import CheckpointError
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm


def with_image(model: VisionLanguageModel, *rows: list[int]) -> torch.Tensor:
    """Return ids ``[B, T + 5]`` with room for an image of five visual tokens each."""
    return torch.tensor([model.insert_visual(row, 5) for row in rows])


def test_visual_tokens_go_right_behind_the_first_token(tiny_vlm: VisionLanguageModel):
    visual = torch.randn(1, 5, 8)
    embedded = tiny_vlm.embed(with_image(tiny_vlm, [0, 40, 41]), visual)
    words = tiny_vlm.get_input_embeddings()(torch.tensor([[0, 40, 41]]))
    assert embedded.shape == (1, 8, 32)
    assert embedded[:, 0].equal(words[:, 0])
    assert embedded[:, 1:6].equal(tiny_vlm.connector(visual))
    assert embedded[:, 6:].equal(words[:, 1:])


def test_without_bos_visual_tokens_go_first(tiny_vlm: VisionLanguageModel):
    tiny_vlm.config.bos_first = False
    visual = torch.randn(1, 5, 8)
    embedded = tiny_vlm.embed(with_image(tiny_vlm, [40, 41]), visual)
    assert embedded[:, :5].equal(tiny_vlm.connector(visual))
    assert embedded[:, 5:].equal(tiny_vlm.get_input_embeddings()(torch.tensor([[40, 41]])))


def test_images_fill_the_rows_that_have_room_for_them(tiny_vlm: VisionLanguageModel):
    text = [0, 42, 43, 44, 45, 46, 47, 48]
    ids, visual = with_image(tiny_vlm, [0, 40, 41]), torch.randn(1, 5, 8)
    mixed = tiny_vlm.embed(torch.tensor([text, ids[0].tolist()]), visual)
    assert mixed[:1].equal(tiny_vlm.embed(torch.tensor([text])))
    assert mixed[:1].equal(tiny_vlm.get_input_embeddings()(torch.tensor([text])))
    assert mixed[1:].equal(tiny_vlm.embed(ids, visual))
    assert tiny_vlm.embed(torch.tensor([text]), torch.randn(1, 0, 8)).equal(mixed[:1])


def test_a_saved_model_answers_as_before(tiny_vlm: VisionLanguageModel, tmp_path: Path):
    tiny_vlm.save(tmp_path / "model")
    again = VisionLanguageModel.load(tmp_path / "model")
    ids, visual = with_image(tiny_vlm, [0, 40, 41]), torch.randn(1, 5, 8)
    assert again.embed(ids, visual).equal(tiny_vlm.embed(ids, visual))
    assert again.prompt == tiny_vlm.prompt


def test_a_saved_model_keeps_the_geometry_of_its_arm(tiny_vlm: VisionLanguageModel, tmp_path: Path):
    loaded = load_backbone("digits-vmamba", geometry="corner-letterbox-128x208")
    connector = build_connector("gelu-mlp", loaded.network.embed_dim, 32, seed=0)
    VisionLanguageModel.from_parts(tiny_vlm.llm, tiny_vlm.tokenizer, connector, tiny_vlm.prompt, loaded).save(
        tmp_path / "model"
    )
    again = VisionLanguageModel.load(tmp_path / "model")
    assert again.backbone.geometry == loaded.geometry != load_backbone("digits-vmamba").geometry
    assert again.backbone.token_grid == (8, 13)


def test_a_missing_llm_is_one_line():
    with pytest.raises(CheckpointError, match="no-such-llm"):
        load_llm(Path("no-such-llm"))
