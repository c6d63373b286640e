"""The loss of one batch: through the VLM, and through the LLM's head at the predicted positions alone.

`Learner` is what is sharded and called; all else about training goes on around it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eyeswap.training.collate import Batch
from eyeswap.vlm.model import VisionLanguageModel

_LOGIT_BYTES = 1 << 28  # float32 logits that exist at one time


class Learner(nn.Module):
    """A VLM with a loss.

    Args:
        vlm: the model; not copied.
    """

    def __init__(self, vlm: VisionLanguageModel) -> None:
        super().__init__()
        self.vlm = vlm

    def forward(self, batch: Batch, visual_tokens: Tensor | None, uses_images: bool) -> Tensor:
        """Return the summed cross-entropy of a batch, a scalar of shape ``[]``.

        Args:
            batch: padded or packed.
            visual_tokens: ``[..., vision_width]`` in the order of its ids; None without image.
            uses_images: whether any part of the global batch has an image. The connector then takes part in every
                pass, with a gradient of zero where there is none to see, so that all GPUs reduce the same gradients.
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
            first: nn.Linear = self.vlm.connector[0]  # type: ignore[assignment]
            blank = first.weight.new_zeros(1, first.in_features)
            loss = loss + 0.0 * self.vlm.connector(blank).sum()
        return loss


def summed_cross_entropy(hidden: Tensor, head: Any, targets: Tensor, at_once: int | None = None) -> Tensor:
    """Return the summed cross-entropy of ``head(hidden)`` without ever holding all logits.

    Positions go through the head in parts; in the backward pass each part's logits are made again.

    Args:
        hidden: ``[K, D]``.
        head: a linear layer ``[K, D] -> [K, V]``.
        targets: ``[K]``.
        at_once: positions of one part; None takes as many as fit into 256 MB of logits.

    Returns:
        A scalar of shape ``[]``.
    """
    size = at_once or max(1, _LOGIT_BYTES // (4 * head.weight.shape[0]))
    if len(targets) <= size:
        return _summed(hidden, head, targets)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    losses = [
        checkpoint(_summed, some, head, wanted, use_reentrant=False, preserve_rng_state=False) for some, wanted in parts
    ]
    return torch.stack(losses).sum()


def _summed(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="sum")
