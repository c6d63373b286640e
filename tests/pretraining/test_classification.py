import torch

from eyeswap.backbones import catalog
from eyeswap.data.digits.scene import KINDS
from eyeswap.pretraining.classification import (
    NUM_CLASSES,
    ClassificationRecipe,
    Classifier,
    Stage,
    classification_loss,
    make_image,
    pretrain_backbone,
)

TINY = ClassificationRecipe(stages=(Stage(64, True, 64, 3, 16, 1e-3),))


def test_images_are_seeded_and_labelled_by_what_they_show():
    entry = catalog.entry("digits-vit")
    stage = Stage(64, True, 1, 1, 1, 1e-3)
    pixels, labels = make_image(7, stage, entry.geometry, "train", 5)
    again, _ = make_image(7, stage, entry.geometry, "train", 5)
    assert pixels.shape == (3, 64, 64)
    assert (pixels == again).all()
    assert labels[: len(KINDS)].sum() == labels[len(KINDS) :].sum() == 1


def test_the_loss_is_least_when_the_present_labels_share_the_probability():
    labels = torch.zeros(1, NUM_CLASSES, dtype=torch.bool)
    labels[0, [2, 7, 14]] = True
    right = torch.full((1, NUM_CLASSES), -20.0)
    right[0, [2, 7, 14]] = 20.0
    assert classification_loss(right, labels) < classification_loss(torch.zeros(1, NUM_CLASSES), labels)
    torch.testing.assert_close(classification_loss(right, labels), torch.tensor(2.0).log(), atol=1e-4, rtol=0)


def test_pretraining_is_the_same_from_run_to_run_and_learns():
    entry = catalog.entry("digits-vit")
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        network = entry.build()
        losses: list[float] = []
        pretrain_backbone(network, entry.geometry, TINY, lambda step, loss, seen=losses: seen.append(loss))
        results.append((losses, network.state_dict()["patch_embed.proj.weight"].clone()))
    assert results[0][0] == results[1][0]
    assert results[0][1].equal(results[1][1])
    assert results[0][0][-1] < results[0][0][0]


def test_the_head_gives_one_logit_a_class():
    network = catalog.entry("digits-vit").build()
    assert Classifier(network)(torch.randn(2, 3, 64, 64)).shape == (2, NUM_CLASSES)
