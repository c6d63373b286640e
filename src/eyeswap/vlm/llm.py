"""The language model of a VLM: any causal LM of transformers, its tokenizer and its chat frame.

Three rules make every LLM fit the sequence ``[BOS][visual tokens][text]``:

- Padding has its own token. A tokenizer without one, or one that pads with a token that means something else, gets
  ``<PAD>``, and an embedding without room grows to a multiple of 64 rows (as published: Vicuna's 32,000 become 32,064).
- ``<image>`` marks a visual token. Its embedding is never looked up, so its id may exceed the vocabulary.
- The tokenizer decides about BOS: visual tokens follow it if sequences begin with one, and come first otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from eyeswap.files import read_json
from eyeswap.recipe import PromptKind
from eyeswap.vlm.hub import find_model, one_line_errors
from eyeswap.vlm.llm_check import check_config, check_layers
from eyeswap.vlm.prompt import (
    IMAGE_PLACEHOLDER,
    VICUNA_SYSTEM,
    PlainPrompt,
    Prompt,
    TemplatePrompt,
    VicunaPrompt,
    freeze_clock,
)
from eyeswap.vlm.prompt_check import end_of_answer, known_ends
from eyeswap.vlm.text_ids import text_ids

PAD_TOKEN = "<PAD>"
_ROWS = 64  # the embedding grows to a multiple of this


def load_llm(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    prompt: PromptKind = "auto",
    today: Callable[[], date] = date.today,
) -> tuple[Any, PreTrainedTokenizerBase, Prompt]:
    """Load a causal LM, its tokenizer and its chat frame, from a folder or by its Hugging Face name.

    Args:
        name: a folder or ``organisation/model``.
        dtype: type of the weights in memory.
        prompt: which chat frame, see `load_tokenizer`.
        today: returns the date that a chat template prints.

    Raises:
        CheckpointError: if there is no such model.
        SpecError: if its architecture is not supported, see `check_layers`, or it cannot be prompted in this frame, see
            `end_of_answer`.
    """
    source = find_model(name)
    config = load_config(source)
    tokenizer, frame = load_tokenizer(source, prompt, today)
    with one_line_errors(f"llm {name}"):
        llm = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype)
    llm.config.name_or_path = Path(name).name if Path(name).is_dir() else name  # keeps local paths out of saved folders
    with one_line_errors(f"llm {name}"):
        make_room(llm, tokenizer)
    check_layers(str(name), llm.eval())
    return llm, tokenizer, frame


def load_config(name: str | Path) -> Any:
    """Load the configuration of an LLM without its weights.

    Raises:
        CheckpointError: if there is no such model.
        SpecError: if its architecture is not supported, see `check_config`.
    """
    source = find_model(name)
    with one_line_errors(f"llm {name}"):
        config = AutoConfig.from_pretrained(source)
    check_config(str(name), config)
    return config


def load_tokenizer(
    name: str | Path, prompt: PromptKind = "auto", today: Callable[[], date] = date.today
) -> tuple[PreTrainedTokenizerBase, Prompt]:
    """Load the tokenizer of an LLM, with ``<PAD>`` and ``<image>`` added, and its chat frame, without the weights.

    A folder may contain an ``eyeswap.json`` with the system text of the Vicuna frame (empty for the miniature).

    Args:
        name: a folder or ``organisation/model``.
        prompt: ``vicuna``, ``plain``, or ``template`` for the tokenizer's own; ``auto`` takes Vicuna's if the folder
            has a system text for it, else the template if there is one, else Vicuna's.
        today: returns the date that a chat template prints from then on.

    Raises:
        CheckpointError: if there is no such tokenizer.
        SpecError: if the LLM cannot be prompted in this frame, see `end_of_answer`.
    """
    source = find_model(name)
    with one_line_errors(f"llm {name}"):
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(source))
    settings = Path(source) / "eyeswap.json"
    system = read_json(settings)["system"] if settings.is_file() else None
    add_tokens(tokenizer)
    frame = choose_prompt(tokenizer, system, prompt)
    if isinstance(frame, TemplatePrompt):
        freeze_clock(tokenizer, today)
    end_of_answer(tokenizer, frame, known_ends(tokenizer))
    return tokenizer, frame


def choose_prompt(tokenizer: PreTrainedTokenizerBase, system: str | None = None, prompt: PromptKind = "auto") -> Prompt:
    """Return the chat frame of a tokenizer.

    Args:
        tokenizer: the LLM's.
        system: system text for the Vicuna frame; None for Vicuna's own.
        prompt: which frame, see `load_tokenizer`.
    """
    end = str(tokenizer.eos_token or "</s>")
    if prompt == "plain":
        return PlainPrompt(end_of_answer=end)
    if prompt == "template" or (prompt == "auto" and system is None and tokenizer.chat_template):
        return TemplatePrompt(tokenizer)
    return VicunaPrompt(VICUNA_SYSTEM if system is None else system, end)


def begins_with_bos(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> bool:
    """Return whether sequences begin with BOS, added by the tokenizer or written by the chat template."""
    bos = tokenizer.bos_token_id
    return bos is not None and text_ids(tokenizer, [prompt.question("x")], begins=True)[0][0] == bos


def add_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add ``<PAD>`` to a tokenizer, unless it has a pad token used for nothing else, and ``<image>``."""
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, None}
    if tokenizer.pad_token_id in others:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.add_tokens([AddedToken(IMAGE_PLACEHOLDER, normalized=False, special=True)], special_tokens=True)
    tokenizer.padding_side = "left"


_WITHOUT_ATTENTION = ("conv", "linear_attention", "mamba", "recurrent")


def num_positions(config: Any) -> int | None:
    """Return the longest sequence that an LLM was trained for; None if it has no such limit (Mamba, Bloom)."""
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return None if longest is None else int(longest)


def num_attention_layers(config: Any) -> int:
    """Return the number of attention layers of an LLM; a Mamba has none."""
    kinds = getattr(config, "layer_types", None)
    return int(config.num_hidden_layers) if kinds is None else sum(kind not in _WITHOUT_ATTENTION for kind in kinds)


def make_room(llm: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Grow the embedding to a multiple of 64 rows if the pad token exceeds it; new rows are reproducible."""
    embedding = llm.get_input_embeddings()
    if tokenizer.pad_token_id >= embedding.num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            llm.resize_token_embeddings(
                tokenizer.pad_token_id + 1, pad_to_multiple_of=_ROWS, mean_resizing=not embedding.weight.is_meta
            )
    llm.config.pad_token_id = tokenizer.pad_token_id
