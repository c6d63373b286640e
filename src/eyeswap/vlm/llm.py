"""The language model of a VLM: any causal LM of transformers, its tokenizer, its chat frame.

Three rules make every LLM fit the sequence ``[BOS][visual tokens][text]``:

- Padding has a token of its own. A tokenizer without one, or one that pads with a token that means something else,
  gets ``<PAD>``, and a full embedding grows to a multiple of 64 rows (as published: Vicuna's 32,000 become 32,064).
- ``<image>`` stands for a visual token. Its embedding is never looked up, so it may lie beyond the vocabulary.
- The tokenizer decides about BOS: visual tokens go right behind it where sequences begin with one, first where not.
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
from eyeswap.vlm.clock import freeze_clock
from eyeswap.vlm.hub import find_model, one_line_errors
from eyeswap.vlm.llm_check import check_config, check_layers
from eyeswap.vlm.prompt import IMAGE_PLACEHOLDER, VICUNA_SYSTEM, PlainPrompt, Prompt, TemplatePrompt, VicunaPrompt
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
        today: tells the date that a chat template prints.

    Raises:
        CheckpointError: if there is no such model.
        SpecError: if it is of a kind that is not supported, see `check_layers`, or cannot be asked in this frame, see
            `end_of_answer`.
    """
    found = find_model(name)
    config = load_config(found)
    tokenizer, frame = load_tokenizer(found, prompt, today)
    with one_line_errors(f"llm {name}"):
        llm = AutoModelForCausalLM.from_pretrained(found, config=config, dtype=dtype)
    llm.config.name_or_path = Path(name).name if Path(name).is_dir() else name  # saved folders hold no local paths
    with one_line_errors(f"llm {name}"):
        make_room(llm, tokenizer)
    check_layers(str(name), llm.eval())
    return llm, tokenizer, frame


def load_config(name: str | Path) -> Any:
    """Load the configuration of an LLM that can be trained here; weights are not touched.

    Raises:
        CheckpointError: if there is no such model.
        SpecError: if it is of a kind that is not supported, see `check_config`.
    """
    found = find_model(name)
    with one_line_errors(f"llm {name}"):
        config = AutoConfig.from_pretrained(found)
    check_config(str(name), config)
    return config


def load_tokenizer(
    name: str | Path, prompt: PromptKind = "auto", today: Callable[[], date] = date.today
) -> tuple[PreTrainedTokenizerBase, Prompt]:
    """Load the tokenizer of an LLM, with ``<PAD>`` and ``<image>``, and its chat frame; weights are not touched.

    A folder may hold an ``eyeswap.json`` with the system text of the Vicuna frame (the miniature LLM has none).

    Args:
        name: a folder or ``organisation/model``.
        prompt: ``vicuna``, ``plain``, or ``template`` for the tokenizer's own; ``auto`` takes Vicuna's where the folder
            has a system text for it, else the template if there is one, else Vicuna's.
        today: tells the date that a chat template prints; it then prints that one for ever.

    Raises:
        CheckpointError: if there is no such tokenizer.
        SpecError: if the LLM cannot be asked in this frame, see `end_of_answer`.
    """
    found = find_model(name)
    with one_line_errors(f"llm {name}"):
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(found))
    settings = Path(found) / "eyeswap.json"
    system = read_json(settings)["system"] if settings.is_file() else None
    add_tokens(tokenizer)
    frame = choose_prompt(tokenizer, system, prompt)
    if isinstance(frame, TemplatePrompt):
        freeze_clock(tokenizer, today)
    end_of_answer(tokenizer, frame, known_ends(tokenizer))
    return tokenizer, frame


def choose_prompt(tokenizer: PreTrainedTokenizerBase, system: str | None = None, prompt: PromptKind = "auto") -> Prompt:
    """Return the chat frame of a tokenizer; ``system`` is a system text for Vicuna's, others as in `load_tokenizer`."""
    end = str(tokenizer.eos_token or "</s>")
    if prompt == "plain":
        return PlainPrompt(end_of_answer=end)
    if prompt == "template" or (prompt == "auto" and system is None and tokenizer.chat_template):
        return TemplatePrompt(tokenizer)
    return VicunaPrompt(VICUNA_SYSTEM if system is None else system, end)


def begins_with_bos(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> bool:
    """Return whether token sequences begin with BOS: the tokenizer adds it, or the chat template writes it."""
    bos = tokenizer.bos_token_id
    return bos is not None and text_ids(tokenizer, [prompt.question("x")], begins=True)[0][0] == bos


def add_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer ``<PAD>``, unless it has a pad token that means nothing else, and ``<image>``."""
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, None}
    if tokenizer.pad_token_id in others:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.add_tokens([AddedToken(IMAGE_PLACEHOLDER, normalized=False, special=True)], special_tokens=True)
    tokenizer.padding_side = "left"


_WITHOUT_ATTENTION = ("conv", "linear_attention", "mamba", "recurrent")


def num_positions(config: Any) -> int | None:
    """Return the longest sequence that an LLM was made for; None if nothing in it ends (Mamba, Bloom)."""
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return None if longest is None else int(longest)


def num_attention_layers(config: Any) -> int:
    """Return how many layers of an LLM attend to all positions before them; a Mamba has none."""
    kinds = getattr(config, "layer_types", None)
    return int(config.num_hidden_layers) if kinds is None else sum(kind not in _WITHOUT_ATTENTION for kind in kinds)


def make_room(llm: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Grow the embedding to a multiple of 64 rows if the pad token lies beyond it; new rows are the same every time."""
    if tokenizer.pad_token_id >= llm.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            llm.resize_token_embeddings(tokenizer.pad_token_id + 1, pad_to_multiple_of=_ROWS)
    llm.config.pad_token_id = tokenizer.pad_token_id
