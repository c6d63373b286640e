"""The VLM: visual tokens through a connector into a decoder LLM.

``VisionLanguageModel`` owns what is trained, the connector and the LLM. The frozen backbone stays outside: it is
named in the config, its tokens come in ready-made (from the token cache or from `encode`), and a saved model does not
repeat its weights. A sequence is ``[BOS][visual tokens][text]``: visual tokens go right behind the
beginning-of-sequence token, attention is causal, positions are sequential (facts of the published code).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from eyeswap.errors import CheckpointError
from eyeswap.files import read_json, write_json, write_safetensors
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.prompt import VICUNA_SYSTEM, VicunaPrompt

IGNORED = -100  # label of positions without loss


class VisionLanguageModel(nn.Module):
    """A connector and a decoder LLM.

    Attributes:
        connector: ``[B, N, vision_width] -> [B, N, llm_width]``.
        llm: any transformers causal LM that takes ``inputs_embeds``.
        tokenizer: its tokenizer; must have a beginning-of-sequence token.
        prompt: the chat frame of the LLM.
    """

    llm: Any  # transformers' model classes carry no types

    def __init__(
        self,
        llm: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        connector: nn.Sequential,
        prompt: VicunaPrompt,
    ) -> None:
        super().__init__()
        self.connector, self.llm = connector, llm
        self.tokenizer, self.prompt = tokenizer, prompt

    def embed(self, visual_tokens: Tensor, input_ids: Tensor) -> Tensor:
        """Assemble the input embeddings.

        Args:
            visual_tokens: ``[B, N, vision_width]``.
            input_ids: ``[B, T]``, beginning-of-sequence token first.

        Returns:
            ``[B, 1 + N + T - 1, llm_width]``: BOS, visual tokens, the rest of the text.
        """
        text: Tensor = self.llm.get_input_embeddings()(input_ids)  # [B, T, D]
        visual = self.connector(visual_tokens).to(text.dtype)  # [B, N, D]
        return torch.cat([text[:, :1], visual, text[:, 1:]], dim=1)

    def loss(self, visual_tokens: Tensor, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Return the summed cross-entropy over the answer tokens and their number.

        Args:
            visual_tokens: ``[B, N, vision_width]``.
            input_ids: ``[B, T]``, padded on the right; a causal model never looks at the padding.
            labels: ``[B, T]``, `IGNORED` outside of answers.
        """
        hidden = self.llm.base_model(
            inputs_embeds=self.embed(visual_tokens, input_ids), use_cache=False
        ).last_hidden_state  # [B, 1+N+T-1, D]
        text = hidden[:, visual_tokens.shape[1] :]  # [B, T, D]: position t sees text tokens 0..t
        wanted = labels[:, 1:] != IGNORED  # [B, T-1]
        logits = self.llm.get_output_embeddings()(text[:, :-1][wanted])  # [targets, V]
        targets = labels[:, 1:][wanted]
        return F.cross_entropy(logits.float(), targets, reduction="sum"), int(targets.numel())

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write connector, LLM, tokenizer and ``facts`` (backbone name, wiring, connector kind) to a folder.

        The LLM lies in ``llm/`` in the Hugging Face layout, so that it can be opened without eyeswap.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.llm.save_pretrained(folder / "llm")
        self.tokenizer.save_pretrained(folder / "llm")
        weights = {key: value.detach().contiguous() for key, value in self.connector.state_dict().items()}
        write_safetensors(folder / "connector.safetensors", weights)
        vision_width = weights["0.weight"].shape[1]
        write_json(folder / "vlm.json", {**facts, "vision_width": vision_width, "system": self.prompt.system})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder written by `save`.

        Raises:
            CheckpointError: if a file is missing or does not fit.
        """
        facts = read_json(folder / "vlm.json")
        llm, tokenizer, _ = load_llm(folder / "llm")
        connector = build_connector(facts["connector"], facts["vision_width"], llm.config.hidden_size, seed=0)
        try:
            connector.load_state_dict(load_file(folder / "connector.safetensors"))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{folder / 'connector.safetensors'}: {error}") from None
        return cls(llm, tokenizer, connector, VicunaPrompt(system=facts["system"])).eval()


def load_llm(name: str | Path) -> tuple[Any, PreTrainedTokenizerBase, VicunaPrompt]:
    """Load a causal LM, its tokenizer and its chat frame, from a folder or by its Hugging Face name.

    The folder may hold an ``eyeswap.json`` with the system text of the prompt (the miniature LLM has none);
    without it the Vicuna v1.5 system text is used.

    Raises:
        CheckpointError: if there is no such model.
    """
    if not Path(name).is_dir() and str(name).count("/") != 1:
        raise CheckpointError(f"llm {name}: no such folder, and not a Hugging Face name (organisation/model)")
    disable_progress_bar()  # a bar for each load would break into the study's own
    try:
        config = AutoConfig.from_pretrained(name)
        llm = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"llm {name}: cannot be loaded: {str(error).splitlines()[0]}") from None
    settings = Path(name) / "eyeswap.json"
    system = read_json(settings)["system"] if settings.is_file() else VICUNA_SYSTEM
    return llm.eval(), cast(PreTrainedTokenizerBase, tokenizer), VicunaPrompt(system=system)
