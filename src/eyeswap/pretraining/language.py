"""Pretrain the miniature LLM on text without images; it takes the place of Vicuna in a miniature study.

A text is a scene drawn in words (64 words, one per cell, in reading order) followed by a conversation about it. From
such texts a small Llama learns to look things up in its context, to count, to compare positions and to write boxes
before it ever sees an image. Every arm of a study starts from the same weights. Two more LLMs are that one after some
further texts, with scenes of 64 and of 256 words: they tell whether an LLM wants as many visual tokens as it has read
words per scene.

The tokenizer is a byte-level BPE with a few phrases as single tokens: the fixed instructions ("Answer the question
using a single word or phrase.") and the coordinates ``0.00``..``1.00``. Prompts read exactly as the published ones, and
a conversation stays short enough for a laptop. Bytes cover any other input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eyeswap.data.digits.language import (
    BACKGROUND_WORD,
    DESCRIPTION_REQUEST,
    PADDING_WORD,
)
from eyeswap.data.digits.scene import COLOURS, KINDS
from eyeswap.data.formats.boxes import BOX_REQUEST
from eyeswap.data.formats.tallyqa import count_message
from eyeswap.data.formats.vqa import SHORT_ANSWER
from eyeswap.pretraining.texts import RASTER, Text, make_text
from eyeswap.processes import worker_pool
from eyeswap.shipped import SHIPPED_LLM, llm_path
from eyeswap.vlm.llm import load_llm

ROPE_THETA = 48.0  # wavelengths of 6 to 237 tokens, one of them about a row of 8: suits texts this short
_WORKERS = 2
_VOCABULARY_LIMIT = 640
_WORDS = r" ?[A-Za-z]+| ?[0-9]|[^\sA-Za-z0-9]|\s"
BACKGROUND_CELL, PADDING_CELL = "<.>", "<_>"


@dataclass(frozen=True)
class Cycle:
    """One warm-up and half-cosine decay of the learning rate, on texts that no other cycle uses."""

    num_scenes: int
    num_steps: int
    learning_rate: float


@dataclass(frozen=True)
class LanguageRecipe:
    """Recipe of a miniature LLM; the defaults are those of the shipped one.

    ``raster`` is the number of rows and columns of a scene drawn in words. With ``continues`` training starts from the
    shipped LLM, and sizes are its own.
    """

    cycles: tuple[Cycle, ...] = (Cycle(16_000, 3_000, 3e-3), Cycle(16_000, 1_800, 2e-3))
    held_out: int = 512
    batch_size: int = 32
    warmup_steps: int = 100
    weight_decay: float = 0.05
    context_weight: float = 0.5
    seed: int = 7
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 352
    raster: int = RASTER
    continues: bool = False

    @property
    def num_steps(self) -> int:
        """Steps of all cycles."""
        return sum(cycle.num_steps for cycle in self.cycles)


_FURTHER = LanguageRecipe(cycles=(Cycle(32_000, 1_000, 2e-3),), seed=8, continues=True)
LLM_RECIPES = {
    SHIPPED_LLM: LanguageRecipe(),
    f"{SHIPPED_LLM}-raster-8": _FURTHER,
    f"{SHIPPED_LLM}-raster-16": replace(_FURTHER, raster=16),
}


def encode_text(text: Text, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return ``(input_ids, labels)``; labels are -100 except for answers and their end-of-sequence tokens."""
    words, turns = text
    ids = [tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids([cell_token(word) for word in words])]
    labels = [-100] * len(ids)
    humans = tokenizer([f"USER: {human} ASSISTANT:" for human, _ in turns], add_special_tokens=False).input_ids
    answers = tokenizer([answer for _, answer in turns], add_special_tokens=False).input_ids
    for human, answer in zip(humans, answers, strict=True):
        ids += [*human, *answer, tokenizer.eos_token_id]
        labels += [*([-100] * len(human)), *answer, tokenizer.eos_token_id]
    return ids, labels


def pretrain_language_model(
    recipe: LanguageRecipe, report: Callable[[int, float], None]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, dict[str, float]]:
    """Train a miniature LLM.

    Args:
        recipe: sizes, data and schedule.
        report: called after every step with the step number and the loss.

    Returns:
        The model, its tokenizer, and metrics on held-out texts: ``answer_accuracy`` (fraction of answers that are
        predicted exactly under teacher forcing) and ``loss``.
    """
    texts_of_cycles, held_out = _texts(recipe)
    model, tokenizer = _start(recipe, texts_of_cycles[0][:8000])
    step = 0
    for cycle, texts in zip(recipe.cycles, texts_of_cycles, strict=True):
        encoded = [encode_text(text, tokenizer) for text in texts]
        for loss in train_cycle(model, encoded, tokenizer.pad_token_id, cycle, recipe):
            report(step, loss)
            step += 1
    encoded = [encode_text(text, tokenizer) for text in held_out]
    return model.eval(), tokenizer, _evaluate(model.eval(), encoded, tokenizer)


def _start(recipe: LanguageRecipe, texts: Sequence[Text]) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return the LLM before training, and its tokenizer, which a new LLM learns from texts."""
    if recipe.continues:
        folder = llm_path(SHIPPED_LLM)
        return load_llm(folder)[0], PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = build_tokenizer(part for _, turns in texts for turn in turns for part in turn)
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(llama_config(recipe, tokenizer)), tokenizer


def train_cycle(
    model: LlamaForCausalLM,
    encoded: Sequence[tuple[list[int], list[int]]],
    pad: int,
    cycle: Cycle,
    recipe: LanguageRecipe,
) -> Iterator[float]:
    """Train in place for one cycle; yield the loss on answers after every step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), cycle.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    order = _epochs(len(encoded), cycle.num_steps * recipe.batch_size, recipe.seed)
    for step in range(cycle.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = cycle.learning_rate * _schedule(step, cycle.num_steps, recipe.warmup_steps)
        rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        ids, labels = pad_right([encoded[row] for row in rows], pad)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits  # [B, T, V]
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        is_answer = (labels[:, 1:] >= 0).flatten()
        is_context = (ids[:, 1:] != pad).flatten() & ~is_answer
        loss = losses[is_answer].mean()
        (loss + recipe.context_weight * losses[is_context].mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss.detach())


def _texts(recipe: LanguageRecipe) -> tuple[list[list[Text]], list[Text]]:
    """Return the texts of each cycle and the held-out texts, whose numbers follow those of the first cycle."""
    starts = [0]
    for cycle in recipe.cycles:
        starts.append(starts[-1] + cycle.num_scenes + recipe.held_out)
    with worker_pool(_WORKERS) as workers:
        write = partial(workers.map, partial(make_text, recipe.seed, raster=recipe.raster), chunksize=250)
        cycles = [
            list(write(range(start, start + cycle.num_scenes)))
            for start, cycle in zip(starts, recipe.cycles, strict=False)
        ]
        first = recipe.cycles[0].num_scenes
        return cycles, list(write(range(first, first + recipe.held_out)))


def pad_right(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    """Stack rows of different lengths into ``[B, T]`` ids and labels, right-padded (a causal model ignores it)."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in rows])
    return ids, labels


def llama_config(recipe: LanguageRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the architecture of the miniature LLM."""
    return LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 8) * 8,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _epochs(num_texts: int, needed: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(num_texts) for _ in range(math.ceil(needed / num_texts))]
    return np.concatenate(passes)[:needed]


def _schedule(step: int, num_steps: int, warmup_steps: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done)) * 0.98 + 0.02


@torch.no_grad()
def _evaluate(
    model: LlamaForCausalLM, rows: Sequence[tuple[list[int], list[int]]], tokenizer: PreTrainedTokenizerFast
) -> dict[str, float]:
    right, answers, losses = 0, 0, []
    for start in range(0, len(rows), 64):
        ids, labels = pad_right(rows[start : start + 64], tokenizer.pad_token_id)
        output = model(input_ids=ids, labels=labels, use_cache=False)
        losses.append(float(output.loss))
        hit = (output.logits[:, :-1].argmax(-1) == labels[:, 1:]) | (labels[:, 1:] == -100)  # [B, T-1]
        for row_hit, row_labels in zip(hit, labels[:, 1:], strict=True):
            ends = (row_labels == tokenizer.eos_token_id).nonzero().flatten().tolist()
            for begin, end in zip([0, *[e + 1 for e in ends[:-1]]], ends, strict=True):
                right += bool(row_hit[begin : end + 1].all())
                answers += 1
    return {"answer_accuracy": right / answers, "loss": float(np.mean(losses))}


def cell_token(word: str) -> str:
    """Return the token of one word of a scene drawn in words."""
    return {BACKGROUND_WORD: BACKGROUND_CELL, PADDING_WORD: PADDING_CELL}.get(word, f"<{word}>")


def phrases() -> list[str]:
    """Return the texts that are single tokens: instructions, coordinates and the words of a drawn scene."""
    instructions = [
        "USER: ",
        " ASSISTANT:",
        f"\n{SHORT_ANSWER}",
        count_message(""),
        BOX_REQUEST,
        DESCRIPTION_REQUEST,
        ", ",
    ]
    coordinates = [f"{number / 100:.2f}" for number in range(101)]
    cells = [cell_token(f"{colour}-{kind}") for colour in COLOURS for kind in KINDS]
    return [*instructions, *coordinates, BACKGROUND_CELL, PADDING_CELL, *cells]


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the miniature tokenizer on conversations; the same corpus always gives the same tokenizer."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
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
