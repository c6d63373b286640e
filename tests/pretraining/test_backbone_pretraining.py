from dataclasses import replace

import pytest
import torch

from eyeswap.backbones import catalog
from eyeswap.data.digits.scene import KINDS
from eyeswap.errors import CheckpointError
from eyeswap.pretraining import backbone
from eyeswap.pretraining.backbone import (
    NUM_CLASSES,
    BackbonePretraining,
    Classifier,
    Images,
    classification_loss,
    top1_accuracy,
)
from eyeswap.pretraining.recipes import ClassificationRecipe, Stage

TINY = ClassificationRecipe(
    stages=(Stage(32, (0.8, 1.0), 4, 8, 4, 1e-3), Stage(48, (0.36, 0.9), 8, 1, 4, 1e-3)), evaluate_every=5
)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(backbone, "VALIDATION_IMAGES", 16)
    monkeypatch.setattr(backbone, "PROGRESS_IMAGES", 8)


def begin(recipe=TINY, **options):
    entry = catalog.entry("digits-vit")
    torch.manual_seed(0)
    return BackbonePretraining(entry.build(), entry.geometry, recipe, **options)


def weights(run):
    return {key: value.clone() for key, value in run.model.state_dict().items()}


def test_pretraining_goes_through_its_stages_and_learns():
    losses: list[float] = []
    run = begin()
    metrics = run.run(lambda step, loss: losses.append(loss))
    assert run.step == len(losses) == TINY.num_steps == 10
    assert losses[7] < losses[0]  # the end of the first stage, which shows the same four images eight times
    assert [step for step, _ in run.curve] == [5, 10]
    assert 0 <= metrics["top1_accuracy"] <= 1


@pytest.mark.parametrize("killed_at", [3, 9])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr(backbone, "_SECONDS_BETWEEN_SAVES", 0.0)
    whole = begin()
    expected = whole.run()

    def kill(step, loss):
        if step == killed_at:
            raise KeyboardInterrupt

    saved = tmp_path / "unfinished.pt"
    with pytest.raises(KeyboardInterrupt):
        begin(saved=saved).run(kill)
    again = begin(saved=saved)
    assert again.step == killed_at - 1
    assert again.run() == expected
    assert again.curve == whole.curve
    assert all(value.equal(weights(whole)[key]) for key, value in weights(again).items())


def test_an_unfinished_run_of_another_recipe_is_refused(tmp_path):
    saved = tmp_path / "unfinished.pt"
    begin(saved=saved).run()
    with pytest.raises(CheckpointError, match="another recipe; delete it"):
        begin(replace(TINY, seed=8), saved=saved)


GEOMETRY = catalog.entry("digits-vit").geometry


def stage(canvas: int, close_up: tuple[float, float] | None) -> Stage:
    return Stage(canvas, close_up, num_images=8, num_epochs=1, batch_size=4, learning_rate=1e-3)


def test_images_are_seeded_and_labelled_by_what_they_show():
    images = Images(stage(64, (0.36, 0.9)), GEOMETRY, "train", seed=7, count=8)
    pixels, labels = images[5]
    assert pixels.shape == (3, 64, 64)
    assert pixels.equal(images[5][0])
    assert not pixels.equal(images[6][0])
    assert labels[: len(KINDS)].sum() == labels[len(KINDS) :].sum() == 1


def test_a_validation_scene_shows_one_thing_and_a_training_scene_often_more():
    training, validation = (Images(stage(128, None), GEOMETRY, split, seed=7, count=8) for split in ("train", "val"))
    assert training[0][0].shape == (3, 128, 128)
    assert max(int(training[index][1][: len(KINDS)].sum()) for index in range(8)) > 1
    assert all(int(validation[index][1].sum()) == 2 for index in range(8))


def test_the_loss_is_least_when_the_present_labels_share_the_probability():
    labels = torch.zeros(1, NUM_CLASSES, dtype=torch.bool)
    labels[0, [2, 7, 14]] = True
    right = torch.full((1, NUM_CLASSES), -20.0)
    right[0, [2, 7, 14]] = 20.0
    assert classification_loss(right, labels) < classification_loss(torch.zeros(1, NUM_CLASSES), labels)
    torch.testing.assert_close(classification_loss(right, labels), torch.tensor(2.0).log(), atol=1e-4, rtol=0)


def test_accuracy_counts_kinds_alone_and_leaves_the_mode_as_it_was():
    model = Classifier(catalog.entry("digits-vit").build()).train()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(NUM_CLASSES) == 3)
    labels = torch.zeros(4, NUM_CLASSES, dtype=torch.bool)
    labels[[0, 1, 2, 3], [3, 3, 3, 5]] = True
    assert top1_accuracy(model, [(torch.randn(2, 3, 64, 64), part) for part in labels.split(2)]) == 0.75
    assert model.training


def test_the_head_gives_one_logit_a_class():
    network = catalog.entry("digits-vit").build()
    assert Classifier(network)(torch.randn(2, 3, 64, 64)).shape == (2, NUM_CLASSES)
