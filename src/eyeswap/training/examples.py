"""The training set as the loop takes it: conversations in tokens, their images, and the order of the batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eyeswap.data.collate import EncodedConversations
from eyeswap.data.instruction import Instruction
from eyeswap.data.order import Rows, batch_order, count_words, split_modality_order
from eyeswap.recipe import Recipe
from eyeswap.training.vision import VisualSource
from eyeswap.vlm.prompt import Prompt


@dataclass(frozen=True)
class TrainingData:
    """All that a run trains on.

    Attributes:
        conversations: as token ids and labels.
        images: image of each conversation; None for text alone.
        ids: of each conversation, for messages; may repeat.
        num_words: of each conversation, as the published sampler reckons.
        order: ``[steps, batch]`` rows of each global batch.
        source: where visual tokens come from.
    """

    conversations: EncodedConversations
    images: Sequence[str | None]
    ids: Sequence[str]
    num_words: Sequence[int]
    order: Rows
    source: VisualSource

    @property
    def lengths(self) -> list[int]:
        """Positions of each conversation, visual tokens included."""
        visual = self.source.num_tokens if any(image is not None for image in self.images) else 0
        pairs = zip(self.conversations.lengths.tolist(), self.images, strict=True)
        return [text + (visual if image is not None else 0) for text, image in pairs]

    @classmethod
    def of(
        cls,
        instructions: Sequence[Instruction],
        messages: Sequence[Sequence[str]],
        prompt: Prompt,
        tokenizer: Any,
        recipe: Recipe,
        seed: int,
        source: VisualSource,
        advance: Callable[[int], None] = lambda count: None,
    ) -> TrainingData:
        """Encode conversations and draw the order of their batches.

        Args:
            instructions: the records.
            messages: what is said in each, if its boxes were moved to another frame.
            prompt: the chat frame.
            tokenizer: the LLM's.
            recipe: limits, batches, order.
            seed: of the run; draws the order.
            source: where visual tokens come from.
            advance: told how many more conversations are encoded.
        """
        encoded = EncodedConversations.of(messages, prompt, tokenizer, recipe.max_text_tokens, advance)
        return cls.ordered(instructions, encoded, recipe, seed, source)

    @classmethod
    def ordered(
        cls,
        instructions: Sequence[Instruction],
        encoded: EncodedConversations,
        recipe: Recipe,
        seed: int,
        source: VisualSource,
    ) -> TrainingData:
        """Draw the order of the batches of conversations that are encoded; arguments as in `of`."""
        images = [instruction.image for instruction in instructions]
        words = [count_words(instruction.messages) for instruction in instructions]
        order = training_order(instructions, words, recipe, seed)
        return cls(encoded, images, [instruction.record_id for instruction in instructions], words, order, source)


def training_order(instructions: Sequence[Instruction], num_words: Sequence[int], recipe: Recipe, seed: int) -> Rows:
    """Return the rows ``[steps, batch]`` of every global batch; the backbone and the machine have no say in it."""
    if recipe.order == "shuffled":
        return batch_order(len(instructions), recipe.global_batch, recipe.num_epochs, seed, recipe.max_steps)
    has_image = [instruction.image is not None for instruction in instructions]
    return split_modality_order(has_image, num_words, recipe.global_batch, recipe.num_epochs, seed, recipe.max_steps)
