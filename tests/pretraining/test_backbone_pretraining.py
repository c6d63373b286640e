from dataclasses import replace

import pytest
import torch

from eyeswap.backbones import catalog
from eyeswap.errors import CheckpointError
from eyeswap.pretraining import backbone
from eyeswap.pretraining.backbone import BackbonePretraining
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
