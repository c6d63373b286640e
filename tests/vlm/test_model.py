from pathlib import Path

import pytest
import torch

from eyeswap.errors import CheckpointError
from eyeswap.vlm.model import IGNORED, VisionLanguageModel, load_llm


def test_visual_tokens_go_right_behind_the_first_token(tiny_vlm: VisionLanguageModel):
    ids = torch.tensor([[0, 40, 41]])
    visual = torch.randn(1, 5, 8)
    embedded = tiny_vlm.embed(visual, ids)
    words = tiny_vlm.llm.get_input_embeddings()(ids)
    assert embedded.shape == (1, 8, 32)
    assert embedded[:, 0].equal(words[:, 0])
    assert embedded[:, 1:6].equal(tiny_vlm.connector(visual))
    assert embedded[:, 6:].equal(words[:, 1:])


def test_the_loss_is_the_cross_entropy_of_the_answer_tokens_alone(tiny_vlm: VisionLanguageModel):
    ids = torch.tensor([[0, 40, 41, 42, 1]])
    labels = torch.tensor([[IGNORED, IGNORED, IGNORED, 42, 1]])
    visual = torch.randn(1, 5, 8)
    summed, count = tiny_vlm.loss(visual, ids, labels)
    full = torch.cat([torch.full((1, 1), IGNORED), torch.full((1, 5), IGNORED), labels[:, 1:]], dim=1)
    expected = tiny_vlm.llm(inputs_embeds=tiny_vlm.embed(visual, ids), labels=full).loss
    assert count == 2
    torch.testing.assert_close(summed / count, expected)


def test_padding_on_the_right_changes_no_loss(tiny_vlm: VisionLanguageModel):
    ids, labels = torch.tensor([[0, 40, 41, 1]]), torch.tensor([[IGNORED, IGNORED, 41, 1]])
    visual = torch.randn(1, 5, 8)
    padded = torch.cat([ids, torch.full((1, 3), 2)], 1), torch.cat([labels, torch.full((1, 3), IGNORED)], 1)
    torch.testing.assert_close(tiny_vlm.loss(visual, ids, labels)[0], tiny_vlm.loss(visual, *padded)[0])


def test_a_saved_model_answers_as_before(tiny_vlm: VisionLanguageModel, tmp_path: Path):
    tiny_vlm.save(tmp_path / "model")
    again = VisionLanguageModel.load(tmp_path / "model")
    ids, visual = torch.tensor([[0, 40, 41]]), torch.randn(1, 5, 8)
    assert again.embed(visual, ids).equal(tiny_vlm.embed(visual, ids))
    assert again.prompt == tiny_vlm.prompt


def test_a_missing_llm_is_one_line():
    with pytest.raises(CheckpointError, match="no-such-llm"):
        load_llm(Path("no-such-llm"))
