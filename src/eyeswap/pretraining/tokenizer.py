"""The miniature tokenizer: byte-level BPE over the language of the scenes, with a few whole phrases as single tokens.

The fixed instructions ("Answer the question using a single word or phrase.") are one token each, and so are the
coordinates ``0.00``..``1.00``: prompts read exactly as the published ones do, and a conversation stays short enough
for a laptop. Bytes cover whatever else a person types.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from eyeswap.data.digits.language import (
    BACKGROUND_WORD,
    BOX_REQUEST,
    DESCRIPTION_REQUEST,
    LETTER_ANSWER,
    PADDING_WORD,
    letter_options,
)
from eyeswap.data.digits.scene import COLOURS, KINDS
from eyeswap.data.formats.vqa import SHORT_ANSWER

_VOCABULARY_LIMIT = 640
_WORDS = r" ?[A-Za-z]+| ?[0-9]|[^\sA-Za-z0-9]|\s"
BACKGROUND_CELL, PADDING_CELL = "<.>", "<_>"


def cell_token(word: str) -> str:
    """Return the token that stands for one word of a scene drawn in words."""
    return {BACKGROUND_WORD: BACKGROUND_CELL, PADDING_WORD: PADDING_CELL}.get(word, f"<{word}>")


def phrases() -> list[str]:
    """Return the texts that are one token each: instructions, coordinates and the words of a drawn scene."""
    instructions = [
        "USER: ",
        " ASSISTANT:",
        f"\n{SHORT_ANSWER}",
        f"\n{letter_options()}\n{LETTER_ANSWER}",
        BOX_REQUEST,
        DESCRIPTION_REQUEST,
        ", ",
    ]
    coordinates = [f"{number / 100:.2f}" for number in range(101)]
    cells = [cell_token(f"{colour}-{kind}") for colour in COLOURS for kind in KINDS]
    return [*instructions, *coordinates, BACKGROUND_CELL, PADDING_CELL, *cells]


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the miniature tokenizer on a corpus of conversations; the same corpus gives the same tokenizer."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(_WORDS), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    special = ["<s>", "</s>", "<pad>"]
    trainer = BpeTrainer(
        vocab_size=_VOCABULARY_LIMIT,
        min_frequency=20,
        special_tokens=special,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in phrases()])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
