"""How fast training goes: real tokens a second, and the share of the hardware's peak that they amount to (MFU)."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Sequence

from eyeswap.vlm.llm import num_attention_layers
from eyeswap.vlm.model import VisionLanguageModel

_RECENT = 20  # steps


def pass_flops(vlm: VisionLanguageModel, lengths: Sequence[int]) -> float:
    """Return the FLOPs of a forward and backward pass of the LLM over whole conversations, padding not counted.

    6 a token for each parameter that is multiplied (4 if it is frozen below adapters, which saves its gradient), and
    ``6 * layers * width * length^2`` for causal attention: the count of `eyeswap.planning.cost`, for a model that is
    loaded.

    Args:
        vlm: the model.
        lengths: positions of each conversation, visual tokens included.
    """
    llm, config = vlm.llm, vlm.llm.config
    embedding, head = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    looked_up = embedding if embedding is not head else None  # an embedding of its own is not multiplied
    each = sum(
        parameter.numel() * (6 if parameter.requires_grad else 4)
        for parameter in llm.parameters()
        if parameter is not looked_up
    )
    attention = 6 * num_attention_layers(config) * config.hidden_size * sum(length**2 for length in lengths)
    return float(each * sum(lengths) + attention)


class Meter:
    """Measures the last steps of one run.

    Args:
        peak_flops: of all GPUs together, FLOP/s; None if not known.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        self._peak = peak_flops
        self._steps: deque[tuple[float, int, float]] = deque([(time.perf_counter(), 0, 0.0)], maxlen=_RECENT + 1)

    def add(self, num_tokens: int, flops: float) -> None:
        """Count a step that ends now."""
        self._steps.append((time.perf_counter(), num_tokens, flops))

    @property
    def tokens_per_s(self) -> float:
        """Real tokens a second over the last steps."""
        return sum(tokens for _, tokens, _ in list(self._steps)[1:]) / self._elapsed

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation over the last steps, 0..1; None if the peak is not known."""
        if self._peak is None:
            return None
        return sum(flops for _, _, flops in list(self._steps)[1:]) / self._elapsed / self._peak

    @property
    def note(self) -> str:
        """Both in words."""
        utilisation = "" if self.mfu is None else f", MFU {self.mfu:.0%}"
        return f"{self.tokens_per_s:,.0f} tokens/s{utilisation}"

    @property
    def _elapsed(self) -> float:
        return max(time.perf_counter() - self._steps[0][0], 1e-9)


_USUAL_STEPS = 100  # steps
_JUMP = 4.0


def complaint(loss: float, grad_norm: float, earlier: Sequence[float], vocabulary: int) -> str | None:
    """Return what is wrong with a step, or None.

    A model that knows nothing and says so has a loss of ``ln(vocabulary)``. Twice that is worse than knowing nothing.
    Half of it is an explosion if it is also four times the median of the last 100 losses.

    Args:
        loss: of the step.
        grad_norm: of the step, before clipping.
        earlier: losses of the steps before.
        vocabulary: number of tokens that the model chooses from.
    """
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"gradient norm is {grad_norm}"
    ignorance = math.log(vocabulary)
    if loss > 2 * ignorance:
        return f"loss exploded to {loss:.2f}, twice that of a model that knows nothing"
    if len(earlier) >= _USUAL_STEPS and loss > ignorance / 2:
        usual = statistics.median(earlier[-_USUAL_STEPS:])
        if loss > _JUMP * usual:
            return f"loss exploded from {usual:.3f} to {loss:.2f}"
    return None
