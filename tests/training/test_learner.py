"""The loss: through the head in parts it is what it is at once, in a fraction of the memory."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_run import fresh
from torch import nn

from eyeswap.training import learner as module
from eyeswap.training.collate import Encoded, pad
from eyeswap.training.learner import Learner, summed_cross_entropy
from eyeswap.vlm.model import VisionLanguageModel

POSITIONS, WIDTH, VOCABULARY = 37, 16, 211


@pytest.fixture
def parts():
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, dtype=torch.float64)
    hidden = torch.randn(POSITIONS, WIDTH, dtype=torch.float64, requires_grad=True)
    return head, hidden, torch.randint(0, VOCABULARY, (POSITIONS,))


def gradients(loss, head, hidden):
    return torch.autograd.grad(loss, [hidden, *head.parameters()])


@pytest.mark.parametrize("at_once", [1, 5, 36, 37, 100, None])
def test_in_parts_the_loss_and_its_gradients_are_the_same(parts, at_once):
    head, hidden, targets = parts
    plain = F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    ours = summed_cross_entropy(hidden, head, targets, at_once)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=0)
    for one, other in zip(gradients(ours, head, hidden), gradients(plain, head, hidden), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_no_more_logits_exist_than_one_part_has(parts):
    head, hidden, targets = parts
    rows: list[int] = []
    head.register_forward_hook(lambda layer, inputs, logits: rows.append(len(logits)))

    def kept(at_once: int) -> int:
        """Numbers that wait for the backward pass, weights aside."""
        saved: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = summed_cross_entropy(hidden, head, targets, at_once)
        del loss
        return sum(saved.values()) - head.weight.numel()

    assert kept(POSITIONS) >= POSITIONS * VOCABULARY
    rows.clear()
    assert kept(5) < 5 * VOCABULARY
    assert max(rows) == 5
    rows.clear()
    summed_cross_entropy(hidden, head, targets, 5).backward()
    assert sorted(rows) == [2, 2] + [5] * 14  # once more in the backward pass


def test_the_part_is_as_large_as_the_memory_for_logits_allows(parts, monkeypatch):
    head, hidden, targets = parts
    rows: list[int] = []
    head.register_forward_hook(lambda layer, inputs, logits: rows.append(len(logits)))
    monkeypatch.setattr(module, "_LOGIT_BYTES", 4 * VOCABULARY * 10)
    summed_cross_entropy(hidden, head, targets)
    assert rows == [10, 10, 10, 7]


def test_only_predicted_positions_meet_the_head(tiny_llm: Path):
    vlm = fresh(tiny_llm)
    rows: list[int] = []
    vlm.get_output_embeddings().register_forward_hook(lambda layer, inputs, logits: rows.append(len(logits)))
    batch = pad([Encoded((1, 5, 6, 7), (-100, -100, 6, 7)), Encoded((1, 5), (-100, -100))], (0, 0), 99, True, 0)
    loss = Learner(vlm)(batch, None, False)
    assert rows == [2]
    labels = torch.tensor([[-100, -100, 6, 7], [-100] * 4])
    ids = torch.tensor([[1, 5, 6, 7], [1, 5, 0, 0]])
    expected = vlm(input_ids=ids, labels=labels).loss * 2
    torch.testing.assert_close(loss, expected)


def test_a_text_without_image_costs_the_same_beside_others_with_images(tiny_vlm: VisionLanguageModel):
    rows = [
        Encoded((0, 40, 41, 42, 1), (-100, -100, 41, 42, 1)),
        Encoded((0, 43, 44, 1), (-100, -100, 44, 1)),
        Encoded((0, 45, 46, 47, 1), (-100, -100, -100, 47, 1)),
    ]
    visual, image_id, learner = torch.randn(2, 5, 8), tiny_vlm.config.image_token_id, Learner(tiny_vlm)
    together = pad(rows, (5, 0, 5), image_id, True, 2)
    with_image, alone = pad(rows[::2], (5, 5), image_id, True, 2), pad(rows[1:2], (0,), image_id, True, 2)
    assert len(together.targets) == len(with_image.targets) + len(alone.targets) == 7
    plain = learner(alone, None, False)
    torch.testing.assert_close(learner(together, visual, True), learner(with_image, visual, True) + plain)
    labels = torch.tensor([rows[1].labels])
    torch.testing.assert_close(plain, 2 * tiny_vlm.llm(input_ids=alone.input_ids, labels=labels).loss)


def test_without_images_the_connector_still_has_a_gradient_if_others_of_the_batch_have_some(tiny_llm: Path):
    vlm = fresh(tiny_llm)
    batch = pad([Encoded((1, 5, 6), (-100, 5, 6))], (0,), 99, True, 0)
    for uses_images in (False, True):
        vlm.zero_grad()
        Learner(vlm)(batch, None, uses_images).backward()
        grads = [parameter.grad for parameter in vlm.connector.parameters()]
        assert all((grad is not None and not grad.any()) == uses_images for grad in grads)
