"""Check on five tokens, before hours are spent, that an LLM can be trained and evaluated here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from eyeswap.errors import SpecError
from eyeswap.vlm.decoder import Decoder

# Settings that change logits after the output layer, which the loss over answer tokens alone would miss.
_LOGIT_SETTINGS = {
    "final_logit_softcapping": None,
    "lm_head_multiplier": 1,
    "logit_scale": 1,
    "logits_scaling": 1,
    "logits_soft_cap": None,
    "output_logit_soft_cap": None,
}
_NUM_TOKENS = 5
_TOLERANCE = 1e-2  # of the largest value: far above rounding, far below the effect of a wrong cache or mask


def check_config(name: str, config: Any) -> None:
    """Refuse LLMs whose configuration alone shows that they are not supported.

    Raises:
        SpecError: naming what is not supported.
    """
    if config.get_text_config(decoder=True) is not config:
        raise SpecError(f"llm {name}: a multimodal model; name the language model in it")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", True):
        raise SpecError(f"llm {name}: a {config.model_type} is bidirectional and cannot generate text")
    missing = [key for key in ("hidden_size", "num_hidden_layers", "vocab_size") if not hasattr(config, key)]
    if missing:
        raise SpecError(f"llm {name}: its configuration has no {missing[0]}, so it is not a language model")
    for setting, harmless in _LOGIT_SETTINGS.items():
        if getattr(config, setting, harmless) not in (harmless, None):
            raise SpecError(f"llm {name}: its {setting} changes logits after the output layer, which is not supported")


@torch.no_grad()
def check_layers(name: str, llm: Any) -> None:
    """Refuse an LLM that cannot be trained from embeddings or cannot generate token by token.

    A training step needs causal hidden states of embedded tokens and applies the output layer to them. Generation needs
    the same states one token at a time.

    Args:
        name: of the LLM, for messages.
        llm: the causal LM.

    Raises:
        SpecError: naming what is not supported.
    """
    kind = llm.config.model_type
    if llm.base_model is llm:
        raise SpecError(f"llm {name}: the layers of a {kind} cannot be called without its output layer")
    decoder = Decoder(llm)
    embedding = llm.get_input_embeddings()
    if embedding.embedding_dim != llm.config.hidden_size:
        raise SpecError(f"llm {name}: its embeddings and layers differ in width, which is not supported")
    tokens = embedding(torch.arange(_NUM_TOKENS) % embedding.num_embeddings)[None]  # [1, T, D]
    other = torch.cat([tokens[:, :-1], tokens[:, :1]], dim=1)  # another last token
    try:
        hidden, _ = decoder(None, None, None, inputs_embeds=tokens)
        changed, _ = decoder(None, None, None, inputs_embeds=other)
        _, cache = decoder(None, None, None, inputs_embeds=tokens[:, :-1])
        step, cache = decoder(cache, None, torch.tensor([[_NUM_TOKENS - 1]]), inputs_embeds=tokens[:, -1:])
        logits, expected = llm(inputs_embeds=tokens).logits, llm.get_output_embeddings()(hidden)
    except Exception as error:  # whatever an architecture raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(f"llm {name}: a {kind} cannot generate token by token here: {reason}") from None
    if not _are_equal(changed[:, :-1], hidden[:, :-1]):
        raise SpecError(f"llm {name}: its hidden states depend on later tokens, so it is not a causal language model")
    if not isinstance(cache, Cache) or not _are_equal(step[:, -1], hidden[:, -1]):
        raise SpecError(f"llm {name}: a {kind} keeps its state outside a transformers cache; not supported")
    if not _are_equal(logits, expected):
        raise SpecError(f"llm {name}: its logits are not those of its output layer alone, which is not supported")


def _are_equal(actual: Tensor, expected: Tensor) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= _TOLERANCE * expected.abs().max())
