"""Training speed (real tokens per second, model FLOPs utilization) and detection of divergence."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Sequence

from eyeswap.vlm.llm import num_attention_layers
from eyeswap.vlm.model import VisionLanguageModel

_RECENT_STEPS = 20  # speed is measured over this many steps
_USUAL_STEPS = 100  # steps whose median loss counts as usual
_JUMP = 4.0  # ratio of a loss to the usual one that counts as divergence


def pass_flops(vlm: VisionLanguageModel, lengths: Sequence[int]) -> float:
    """Return the FLOPs of the LLM's forward and backward pass over conversations, without padding.

    6 per token and parameter in a matrix product (4 if it is frozen under adapters, which saves its gradient), and
    ``6 * layers * width * length^2`` for causal attention: the count of `eyeswap.planning.cost`, for a loaded model.

    Args:
        vlm: the model.
        lengths: positions of each conversation, including visual tokens.
    """
    llm, config = vlm.llm, vlm.llm.config
    embedding, head = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    lookup = embedding if embedding is not head else None  # an untied embedding is in no matrix product
    per_token = sum(
        parameter.numel() * (6 if parameter.requires_grad else 4)
        for parameter in llm.parameters()
        if parameter is not lookup
    )
    attention = 6 * num_attention_layers(config) * config.hidden_size * sum(length**2 for length in lengths)
    return float(per_token * sum(lengths) + attention)


class SpeedMeter:
    """Measures the speed of a run over its last steps.

    Args:
        peak_flops: peak of all GPUs together, FLOP/s; None if unknown.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        self._peak = peak_flops
        self._steps: deque[tuple[float, int, float]] = deque([(time.perf_counter(), 0, 0.0)], maxlen=_RECENT_STEPS + 1)

    def add(self, num_tokens: int, flops: float) -> None:
        """Record a step that has just ended."""
        self._steps.append((time.perf_counter(), num_tokens, flops))

    @property
    def tokens_per_s(self) -> float:
        """Real tokens per second over the last steps."""
        return sum(tokens for _, tokens, _ in list(self._steps)[1:]) / self._elapsed

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilization over the last steps, 0..1; None if the peak is unknown."""
        if self._peak is None:
            return None
        return sum(flops for _, _, flops in list(self._steps)[1:]) / self._elapsed / self._peak

    @property
    def note(self) -> str:
        """Both as text for the progress line."""
        utilization = "" if self.mfu is None else f", MFU {self.mfu:.0%}"
        return f"{self.tokens_per_s:,.0f} tokens/s{utilization}"

    @property
    def _elapsed(self) -> float:
        return max(time.perf_counter() - self._steps[0][0], 1e-9)


def divergence(loss: float, grad_norm: float, earlier: Sequence[float], vocabulary: int) -> str | None:
    """Return why a step counts as diverged, or None.

    Uniform predictions have a loss of ``ln(vocabulary)``. A loss of twice that has diverged; so has a loss of half that
    if it is also four times the median of the last 100 losses.

    Args:
        loss: loss of the step.
        grad_norm: gradient norm of the step before clipping.
        earlier: losses of the preceding steps.
        vocabulary: number of tokens in the vocabulary.
    """
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"gradient norm is {grad_norm}"
    uniform = math.log(vocabulary)
    if loss > 2 * uniform:
        return f"loss diverged to {loss:.2f}, over twice that of uniform predictions"
    if len(earlier) >= _USUAL_STEPS and loss > uniform / 2:
        usual = statistics.median(earlier[-_USUAL_STEPS:])
        if loss > _JUMP * usual:
            return f"loss diverged from {usual:.3f} to {loss:.2f}"
    return None
