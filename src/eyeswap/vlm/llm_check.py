"""Is an LLM one that can be trained and asked here? Found out on five tokens, before hours are spent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from eyeswap.errors import SpecError
from eyeswap.vlm.decoder import Decoder

# Settings of LLMs that change logits behind the last matrix; the loss over answer tokens alone would miss them.
_LOGIT_SETTINGS = {
    "final_logit_softcapping": None,
    "lm_head_multiplier": 1,
    "logit_scale": 1,
    "logits_scaling": 1,
    "logits_soft_cap": None,
    "output_logit_soft_cap": None,
}
_NUM_TOKENS = 5
_TOLERANCE = 1e-2  # of the largest value: far beyond rounding, far below what a wrong reading makes


def check_config(name: str, config: Any) -> None:
    """Refuse what the configuration of an LLM tells already; see `check_layers`.

    Raises:
        SpecError: naming what is not supported.
    """
    if config.get_text_config(decoder=True) is not config:
        raise SpecError(f"llm {name}: a model of several modalities; name the language model in it")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", True):
        raise SpecError(f"llm {name}: a {config.model_type} reads in both directions, it cannot generate text")
    missing = [key for key in ("hidden_size", "num_hidden_layers", "vocab_size") if not hasattr(config, key)]
    if missing:
        raise SpecError(f"llm {name}: its configuration names no {missing[0]}; it is not a language model")
    for setting, harmless in _LOGIT_SETTINGS.items():
        if getattr(config, setting, harmless) not in (harmless, None):
            raise SpecError(f"llm {name}: its {setting} changes logits behind the last layer, which is not supported")


@torch.no_grad()
def check_layers(name: str, llm: Any) -> None:
    """Refuse an LLM that cannot be trained from embeddings, or not be asked token by token.

    A training step takes the last hidden states of embedded tokens, each of which has seen what stands before it, and
    multiplies them with the last matrix. An answer is read off the same states, one token after another.

    Args:
        name: of the LLM, for messages.
        llm: the causal LM.

    Raises:
        SpecError: naming what is not supported.
    """
    kind = llm.config.model_type
    if llm.base_model is llm:
        raise SpecError(f"llm {name}: the layers of a {kind} cannot be called without its last matrix")
    decoder = Decoder(llm)
    embedding = llm.get_input_embeddings()
    if embedding.embedding_dim != llm.config.hidden_size:
        raise SpecError(f"llm {name}: its embeddings are not as wide as its layers, which is not supported")
    tokens = embedding(torch.arange(_NUM_TOKENS) % embedding.num_embeddings)[None]  # [1, T, D]
    other = torch.cat([tokens[:, :-1], tokens[:, :1]], dim=1)  # another last token
    try:
        whole, _ = decoder(None, None, None, inputs_embeds=tokens)
        changed, _ = decoder(None, None, None, inputs_embeds=other)
        _, cache = decoder(None, None, None, inputs_embeds=tokens[:, :-1])
        step, cache = decoder(cache, None, torch.tensor([[_NUM_TOKENS - 1]]), inputs_embeds=tokens[:, -1:])
        logits, expected = llm(inputs_embeds=tokens).logits, llm.get_output_embeddings()(whole)
    except Exception as error:  # whatever an architecture raises
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(f"llm {name}: a {kind} cannot be asked token by token here: {told}") from None
    if not _are_equal(changed[:, :-1], whole[:, :-1]):
        raise SpecError(f"llm {name}: what it says depends on tokens to come; it is no causal language model")
    if not isinstance(cache, Cache) or not _are_equal(step[:, -1], whole[:, -1]):
        raise SpecError(f"llm {name}: a {kind} keeps its state in a form of its own, which is not supported")
    if not _are_equal(logits, expected):
        raise SpecError(f"llm {name}: it makes logits of its last layer by more than a matrix, which is not supported")


def _are_equal(some: Tensor, others: Tensor) -> bool:
    return some.shape == others.shape and bool((some - others).abs().max() <= _TOLERANCE * others.abs().max())
