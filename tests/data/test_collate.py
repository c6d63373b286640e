from eyeswap.data.collate import collate, encode_conversation
from eyeswap.vlm.model import IGNORED, VisionLanguageModel


def test_only_answers_and_their_end_carry_labels(tiny_vlm: VisionLanguageModel):
    tokenizer, prompt = tiny_vlm.tokenizer, tiny_vlm.prompt
    row = encode_conversation(["<image>\nHow many?", "3", "Which?", "red 4"], prompt, tokenizer, 512)
    answers = [token for token in row.labels if token != IGNORED]
    assert tokenizer.decode(answers) == "3</s>red 4</s>"
    assert row.input_ids[0] == tokenizer.bos_token_id
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(row.input_ids[1:]) == "USER: How many? ASSISTANT:3</s>USER: Which? ASSISTANT:red 4</s>"


def test_long_conversations_are_cut_and_short_ones_padded(tiny_vlm: VisionLanguageModel):
    tokenizer, prompt = tiny_vlm.tokenizer, tiny_vlm.prompt
    rows = [encode_conversation(["How many?", "3"], prompt, tokenizer, limit) for limit in (4, 512)]
    ids, labels = collate(rows, tokenizer.pad_token_id)
    assert len(rows[0].input_ids) == 4
    assert ids.shape == labels.shape == (2, len(rows[1].input_ids))
    assert set(labels[0, 4:].tolist()) == {IGNORED}
