"""The loss of one batch, with the LLM's head applied only at predicted positions.

`Learner` is the module that is sharded and called in training.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eyeswap.training.collate import Batch
from eyeswap.vlm.model import VisionLanguageModel

_LOGIT_BYTES = 1 << 28  # largest size of the float32 logits that exist at the same time


class Learner(nn.Module):
    """A VLM with its training loss.

    Args:
        vlm: the model; not copied.
    """

    def __init__(self, vlm: VisionLanguageModel) -> None:
        super().__init__()
        self.vlm = vlm
        self.tuned = nn.ModuleList(vlm.tuned_blocks)  # the backbone itself is outside of the VLM's modules

    def forward(self, batch: Batch, visual_tokens: Tensor | None, uses_images: bool) -> Tensor:
        """Return the summed cross-entropy of a batch, a scalar of shape ``[]``.

        Args:
            batch: the padded or packed batch.
            visual_tokens: ``[..., vision_width]`` in the order of the batch's image ids; None without images.
            uses_images: whether any pass of the global batch has an image. The connector then takes part in every
                pass, with zero gradient in a pass without images, so that all GPUs reduce the same gradients.
        """
        packed = {}
        if batch.starts is not None:
            packed = {
                "position_ids": batch.position_ids,
                "cu_seq_lens_q": batch.starts,
                "cu_seq_lens_k": batch.starts,
                "max_length_q": batch.longest,
                "max_length_k": batch.longest,
            }
        hidden = self.vlm.hidden_states(batch.input_ids, visual_tokens, **packed)  # [B, T, D]
        at_targets = hidden.flatten(0, 1)[batch.target_at]  # [K, D]
        loss = summed_cross_entropy(at_targets, self.vlm.get_output_embeddings(), batch.targets)
        if visual_tokens is None and uses_images:
            loss = loss + 0.0 * self.vlm.connector(self.vlm.connector.blank()).sum()
        return loss


def summed_cross_entropy(hidden: Tensor, head: Any, targets: Tensor, at_once: int | None = None) -> Tensor:
    """Return the summed cross-entropy of ``head(hidden)`` without holding all logits at once.

    Positions pass through the head in chunks, and each chunk's logits are recomputed in the backward pass.

    Args:
        hidden: ``[K, D]``.
        head: a linear layer ``[K, D] -> [K, V]``.
        targets: ``[K]``.
        at_once: positions per chunk; None takes as many as fit into 256 MB of logits.

    Returns:
        A scalar of shape ``[]``.
    """
    size = at_once or max(1, _LOGIT_BYTES // (4 * head.weight.shape[0]))
    if len(targets) <= size:
        return _summed(hidden, head, targets)
    losses = [
        checkpoint(_summed, hidden_chunk, head, target_chunk, use_reentrant=False, preserve_rng_state=False)
        for hidden_chunk, target_chunk in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.stack(losses).sum()


def _summed(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="sum")
