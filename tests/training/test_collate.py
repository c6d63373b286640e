import itertools
from pathlib import Path

import pytest
import torch

from eyeswap.training.collate import Encoded, EncodedConversations, encode_conversation, pack, pad
from eyeswap.vlm.llm import load_tokenizer
from eyeswap.vlm.model import IGNORED
from eyeswap.vlm.prompt import VICUNA_SYSTEM, VicunaPrompt

TALKS = [["<image>\nHow many?", "3", "Which?", "red 4"], ["Where is 5?", ""], ["How many 3 are there?", "2"] * 9]


@pytest.fixture(scope="module")
def frame(tiny_llm: Path):
    return load_tokenizer(tiny_llm)


def test_only_answers_and_their_end_carry_labels(frame):
    tokenizer, prompt = frame
    row = encode_conversation(TALKS[0], prompt, tokenizer, 512)
    answers = [token for token in row.labels if token != IGNORED]
    assert tokenizer.decode(answers) == "3</s>red 4</s>"
    assert row.input_ids[0] == tokenizer.bos_token_id
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(row.input_ids[1:]) == "USER: How many? ASSISTANT:3</s>USER: Which? ASSISTANT:red 4</s>"


@pytest.mark.parametrize("prompt", [VicunaPrompt(""), VicunaPrompt(VICUNA_SYSTEM)])
def test_many_conversations_are_encoded_turn_by_turn(frame, prompt):
    tokenizer = frame[0]
    told: list[int] = []
    rows = EncodedConversations.of(TALKS, prompt, tokenizer, 60, told.append)
    assert sum(told) == len(rows) == 3
    for row, messages in zip(rows, TALKS, strict=True):
        ids: list[int] = []
        labels: list[int] = []
        for number, turn in enumerate(prompt.turns(messages)):
            piece = tokenizer(turn.text.rstrip(), add_special_tokens=number == 0)["input_ids"]
            ids += piece
            labels += piece if turn.is_answer else [IGNORED] * len(piece)
        assert row == Encoded(tuple(ids[:60]), tuple(labels[:60]))
    assert rows.lengths.tolist() == [len(row.input_ids) for row in rows]
    assert rows.num_targets.tolist() == [sum(label >= 0 for label in row.labels[1:]) for row in rows]


def test_parts_that_processes_encode_join_to_the_whole(frame):
    tokenizer, prompt = frame
    whole = EncodedConversations.of(TALKS, prompt, tokenizer, 60)
    for cuts in ((0, 1, 3), (0, 0, 2, 3, 3)):
        parts = [
            EncodedConversations.of(TALKS[first:stop], prompt, tokenizer, 60)
            for first, stop in itertools.pairwise(cuts)
        ]
        joined = EncodedConversations.joined(parts)
        assert list(joined) == list(whole)
        assert joined.num_targets.tolist() == whole.num_targets.tolist()
        assert joined.ids.dtype == whole.ids.dtype


def test_a_batch_has_room_for_images_and_predicts_answers(frame):
    tokenizer, prompt = frame
    rows = [encode_conversation(messages, prompt, tokenizer, 512) for messages in TALKS[:2]]
    wanted = [label for row in rows for label in row.labels if label != IGNORED]
    padded = pad(rows, [4, 0], image_id=999, bos_first=True, pad_id=tokenizer.pad_token_id)
    assert padded.input_ids.shape == (2, len(rows[0].input_ids) + 4)
    assert padded.input_ids[0, :6].tolist() == [rows[0].input_ids[0], *[999] * 4, rows[0].input_ids[1]]
    assert set(padded.input_ids[1, len(rows[1].input_ids) :].tolist()) == {tokenizer.pad_token_id}
    packed = pack(rows, [4, 0], image_id=999, bos_first=True)
    lengths = [len(rows[0].input_ids) + 4, len(rows[1].input_ids)]
    assert packed.starts.tolist() == [0, lengths[0], sum(lengths)]
    assert packed.position_ids[0].tolist() == [*range(lengths[0]), *range(lengths[1])]
    assert packed.longest == max(lengths)
    for batch in (padded, packed):
        assert batch.targets.tolist() == wanted
        assert batch.input_ids.flatten()[batch.target_at + 1].tolist() == wanted


def test_a_packed_row_never_predicts_the_first_token_of_the_next_conversation():
    row = Encoded((5, 6, 7), (5, 6, 7))
    for batch in (pack([row, row], [0, 0], 999, False), pad([row, row], [0, 0], 999, False, 0)):
        assert batch.targets.tolist() == [6, 7, 6, 7]
        assert batch.target_at.tolist() == [0, 1, 3, 4]


def test_a_batch_moves_as_a_whole(frame):
    row = Encoded((5, 6, 7), (IGNORED, 6, 7))
    moved = pack([row], [0], 999, False).to(torch.device("meta"))
    assert {tensor.device.type for tensor in vars(moved).values() if isinstance(tensor, torch.Tensor)} == {"meta"}
