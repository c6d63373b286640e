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


def test_text_only_rows_of_a_mixed_batch_cost_what_they_cost_alone(tiny_vlm: VisionLanguageModel):
    ids = torch.tensor([[0, 40, 41, 42, 1], [0, 43, 44, 1, 2], [0, 45, 46, 47, 1]])
    labels = torch.tensor([[-100, -100, 41, 42, 1], [-100, -100, 44, 1, -100], [-100, -100, -100, 47, 1]])
    visual, rows = torch.randn(2, 5, 8), torch.tensor([0, 2])
    summed, count = tiny_vlm.loss(visual, ids, labels, rows)
    with_image = tiny_vlm.loss(visual, ids[rows], labels[rows])
    alone = tiny_vlm.loss(None, ids[1:2, :4], labels[1:2, :4])
    plain = tiny_vlm.llm(input_ids=ids[1:2, :4], labels=labels[1:2, :4]).loss
    assert count == with_image[1] + alone[1] == 7
    torch.testing.assert_close(summed, with_image[0] + alone[0])
    torch.testing.assert_close(alone[0] / alone[1], plain)


def test_a_text_only_row_is_followed_by_zeros_where_others_have_visual_tokens(tiny_vlm: VisionLanguageModel):
    ids, visual = torch.tensor([[0, 40, 41], [0, 42, 43]]), torch.randn(1, 5, 8)
    embedded = tiny_vlm.embed(visual, ids, torch.tensor([1]))
    words = tiny_vlm.get_input_embeddings()(ids)
    assert embedded[0, :3].equal(words[0])
    assert not embedded[0, 3:].any()
    assert embedded[1:].equal(tiny_vlm.embed(visual, ids[1:]))
    assert tiny_vlm.embed(None, ids).equal(words)


def test_without_bos_visual_tokens_go_first(tiny_vlm: VisionLanguageModel):
    tiny_vlm.config.bos_first = False
    ids, visual = torch.tensor([[40, 41]]), torch.randn(1, 5, 8)
    embedded = tiny_vlm.embed(visual, ids)
    assert embedded[:, :5].equal(tiny_vlm.connector(visual))
    assert embedded[:, 5:].equal(tiny_vlm.get_input_embeddings()(ids))


def test_a_saved_model_answers_as_before(tiny_vlm: VisionLanguageModel, tmp_path: Path):
    tiny_vlm.save(tmp_path / "model")
    again = VisionLanguageModel.load(tmp_path / "model")
    ids, visual = torch.tensor([[0, 40, 41]]), torch.randn(1, 5, 8)
    assert again.embed(visual, ids).equal(tiny_vlm.embed(visual, ids))
    assert again.prompt == tiny_vlm.prompt


def test_a_missing_llm_is_one_line():
    with pytest.raises(CheckpointError, match="no-such-llm"):
        load_llm(Path("no-such-llm"))
