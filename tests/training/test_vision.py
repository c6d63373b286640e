"""Live visual tokens: those of the cache in the controlled wiring; as published, a backbone in train mode."""

from pathlib import Path

import pytest
from PIL import Image
from tiny_run import equal, losses, recipe

from eyeswap.backbones.weights import load_backbone
from eyeswap.data.instruction import Instruction
from eyeswap.errors import SpecError
from eyeswap.recipe import Execution
from eyeswap.tokens.cache import cache_tokens
from eyeswap.training.batches import TrainingData
from eyeswap.training.collate import EncodedConversations
from eyeswap.training.loop import train
from eyeswap.training.vision import CachedTokens, LiveTokens
from eyeswap.vlm.connector import build_connector
from eyeswap.vlm.model import VisionLanguageModel, load_llm

NAMES = [f"{number}.png" for number in range(4)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, name in enumerate(NAMES):
        Image.new("RGB", (60 + 20 * number, 90), (60 * number, 90, 10)).save(folder / name)
    return folder


def seeing(llm: Path, backbone: str, wiring: str) -> VisionLanguageModel:
    loaded = load_backbone(backbone, wiring=wiring)
    model, tokenizer, prompt = load_llm(llm)
    connector = build_connector("linear", loaded.network.embed_dim, 32, seed=1, wiring=wiring)
    return VisionLanguageModel.from_parts(model, tokenizer, connector, prompt, loaded)


def run(model: VisionLanguageModel, images: Path, folder: Path, source=None, seed: int = 7, **options) -> list[float]:
    records = [Instruction(name, name, ("How many digits are there?", "3")) for name in NAMES]
    chosen = recipe(global_batch=2)
    source = source or LiveTokens.of(model, images)
    messages = [record.messages for record in records]
    encoded = EncodedConversations.of(messages, model.prompt, model.tokenizer, chosen.max_text_tokens)
    data = TrainingData.of(records, encoded, chosen, 7, source)
    train(model, data, chosen, folder, "d", seed=seed, **options)
    return losses(folder)


def test_live_tokens_are_those_of_the_cache_to_the_bit(tiny_llm: Path, images: Path, tmp_path: Path) -> None:
    one, other = (seeing(tiny_llm, "digits-vmamba", "controlled") for _ in range(2))
    cache = cache_tokens(tmp_path / "tokens", one.backbone, images, NAMES)
    assert run(one, images, tmp_path / "one", CachedTokens(cache)) == run(other, images, tmp_path / "other")
    assert equal(one.state_dict(), other.state_dict())


def test_as_published_the_backbone_trains_on_batches_and_ends_as_it_began(
    tiny_llm: Path, images: Path, tmp_path: Path
) -> None:
    model = seeing(tiny_llm, "digits-maxvit", "as-published")
    network = model.backbone.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []

    def look(done: int, note: str) -> None:
        seen.append((network.training, equal(network.state_dict(), before)))

    published = run(model, images, tmp_path / "published", report=look)
    assert seen == [(True, False)] * 4  # batch statistics drift while training goes on ...
    assert equal(network.state_dict(), before)  # ... and are gone with it
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    controlled = run(seeing(tiny_llm, "digits-maxvit", "controlled"), images, tmp_path / "controlled")
    assert published != controlled


def test_as_published_drop_paths_are_drawn_from_seed_and_step(tiny_llm: Path, images: Path, tmp_path: Path) -> None:
    def losses_of(folder: str, seed: int, **options) -> list[float]:
        model = seeing(tiny_llm, "digits-vmamba", "as-published")
        return run(model, images, tmp_path / folder, seed=seed, **options)

    def stop(done: int, note: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    often = Execution(checkpoint_every_s=0, workers=0)
    whole = losses_of("whole", 1)
    with pytest.raises(KeyboardInterrupt):
        losses_of("cut", 1, execution=often, report=stop)
    assert losses_of("cut", 1, execution=often) == whole
    assert losses_of("other", 2) != whole


def test_a_canvas_that_varies_cannot_be_trained_on(tiny_llm: Path, images: Path) -> None:
    model = seeing(tiny_llm, "digits-vmamba", "controlled")
    model._backbone = load_backbone("digits-vmamba", geometry="keep-ratio-128")
    with pytest.raises(SpecError, match="needs a fixed canvas; choose a letterbox"):
        LiveTokens.of(model, images)
