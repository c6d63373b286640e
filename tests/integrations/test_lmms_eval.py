"""The plug-in against a stand-in of lmms-eval made from its documented interface; with the real package, if it is here.

Documented: the entry-point group ``lmms_eval.models`` gives a callable that returns a ``ModelManifest``; the class that
this names subclasses ``lmms``, is made by ``create_from_arg_string`` from ``--model_args``, batch size and device, and
answers ``generate_until`` and ``loglikelihood`` from ``request.args``.
"""

from __future__ import annotations

import abc
import importlib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from eyeswap.errors import RunError, SpecError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


class Lmms(abc.ABC):
    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @classmethod
    def create_from_arg_string(cls, text, additional_config=None):
        arguments = dict(pair.split("=") for pair in text.split(",") if pair)
        return cls(**arguments, **{key: value for key, value in additional_config.items() if value is not None})


@pytest.fixture
def lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in where lmms-eval would be."""
    parts = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "eyeswap.integrations.lmms_eval_model", raising=False)
    yield
    sys.modules.pop("eyeswap.integrations.lmms_eval_model", None)


@pytest.fixture
def run(tiny_llm: Path, tmp_path: Path) -> Path:
    """A run folder with an untrained VLM of a miniature backbone and a tiny LLM."""
    from eyeswap.backbones.weights import load_backbone
    from eyeswap.vlm.connector import build_connector
    from eyeswap.vlm.model import VisionLanguageModel, load_llm

    llm, tokenizer, prompt = load_llm(tiny_llm)
    backbone = load_backbone("digits-vit")
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, llm.config.hidden_size, seed=1)
    VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).save(tmp_path / "run" / "model")
    return tmp_path / "run"


def model_class():
    manifest = importlib.import_module("eyeswap.integrations.lmms_eval").models()
    module, _, name = manifest.simple_class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def make(run: Path, text: str = "", **config):
    config = {"batch_size": 4, "max_batch_size": None, "device": "cpu"} | config
    return model_class().create_from_arg_string(f"run={run}{text}", config)


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (120 + number, 90), (40 * number % 255, 80, 160))


def ask(model, documents, settings=None, visual=lambda document: [document["image"]]):
    model.task_dict = {"mine": {"test": documents}}
    settings = {"max_new_tokens": 6, "temperature": 0} | (settings or {})
    return model.generate_until(
        [
            SimpleNamespace(args=(document["question"], settings, visual, number, "mine", "test"))
            for number, document in enumerate(documents)
        ]
    )


DOCUMENTS = [{"image": picture(n // 3), "question": f"What is in picture {n}?"} for n in range(9)]


def test_the_entry_point_names_a_callable_that_gives_a_manifest_and_imports_nothing_heavy(lmms_eval):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["lmms_eval.models"]["eyeswap"].partition(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert manifest == ModelManifest("eyeswap", "eyeswap.integrations.lmms_eval_model.EyeswapVLM")
    assert "eyeswap.integrations.lmms_eval_model" not in sys.modules
    assert issubclass(model_class(), Lmms)
    assert model_class().is_simple


def test_answers_are_those_of_our_own_generator_whatever_the_batch(lmms_eval, run):
    from eyeswap.evaluation.generate import Generator, Request

    model = make(run)
    told = ask(model, DOCUMENTS)
    assert told == ask(make(run, batch_size=1), DOCUMENTS)
    for document, text in zip(DOCUMENTS, told, strict=True):
        pixels, _ = model.vlm.processor.image_geometry.place(document["image"])
        request = Request(model.vlm.prompt.question(document["question"]), max_new_tokens=6)
        assert Generator(model.vlm).answer(model.vlm.encode(pixels[None]), [[request]])[0][0].text == text


def test_an_image_of_several_questions_is_encoded_once_a_batch(lmms_eval, run, monkeypatch):
    model = make(run, batch_size=9)
    seen = []
    encode = model.vlm.encode
    monkeypatch.setattr(model.vlm, "encode", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    ask(model, DOCUMENTS)
    assert sum(seen) == 3


def test_images_of_the_same_bytes_and_other_sides_are_two(lmms_eval, run, monkeypatch):
    model = make(run)
    seen = []
    place = type(model.vlm.processor.image_geometry).place
    monkeypatch.setattr(
        type(model.vlm.processor.image_geometry),
        "place",
        lambda self, image: seen.append(image.size) or place(self, image),
    )
    ask(model, [{"image": Image.new("RGB", size), "question": "What?"} for size in ((40, 20), (20, 40))])
    assert seen == [(40, 20), (20, 40)]


def test_the_answer_ends_where_the_task_says(lmms_eval, run):
    model = make(run)
    (whole,) = ask(model, DOCUMENTS[:1])
    letter = whole[len(whole) // 2]
    (cut,) = ask(model, DOCUMENTS[:1], {"until": [letter]})
    assert cut == whole.split(letter)[0].strip()


def test_a_question_without_image_and_nested_lists_of_one_are_answered(lmms_eval, run):
    model = make(run)
    assert len(ask(model, DOCUMENTS[:2], visual=lambda document: [])) == 2
    assert ask(model, DOCUMENTS[:2], visual=lambda document: [[document["image"]]]) == ask(model, DOCUMENTS[:2])


def test_several_images_are_refused_unless_the_user_says_first(lmms_eval, run):
    def both(document):
        return [document["image"], picture(7)]

    with pytest.raises(SpecError, match=r"task mine: a question has 2 images.*several_images=first"):
        ask(make(run), DOCUMENTS[:1], visual=both)
    first = make(run, ",several_images=first")
    assert ask(first, DOCUMENTS[:1], visual=both) == ask(first, DOCUMENTS[:1])
    with pytest.raises(SpecError, match=r"takes images, not str"):
        ask(make(run), DOCUMENTS[:1], visual=lambda document: ["clip.mp4"])


def test_the_loss_of_a_target_is_smallest_for_what_the_model_says_itself(lmms_eval, run):
    model = make(run)
    model.task_dict = {"mine": {"test": DOCUMENTS}}

    def weigh(target):
        args = ("Is it?", target, lambda document: [document["image"]], 0, "mine", "test")
        ((loss, is_greedy),) = model.loglikelihood([SimpleNamespace(args=args)])
        return loss, is_greedy

    losses = {text: weigh(text)[0] for text in ("yes", "no", "red circle")}
    assert all(loss > 0 for loss in losses.values())
    assert weigh(" yes")[0] == pytest.approx(losses["yes"])  # lmms-eval puts a space in front
    assert weigh(lambda document: "yes")[0] == pytest.approx(losses["yes"])
    # By hand: the mean cross-entropy of the answer's tokens behind image and prompt.
    from eyeswap.training.collate import encode_conversation, pad
    from eyeswap.training.learner import Learner

    encoded = encode_conversation(["Is it?", "yes"], model.vlm.prompt, model.tokenizer, 100)
    pixels, _ = model.vlm.processor.image_geometry.place(DOCUMENTS[0]["image"])
    with torch.inference_mode():
        visual = model.vlm.encode(pixels[None])  # [1, N, D]
        batch = pad([encoded], [visual.shape[1]], model.vlm.config.image_token_id, model.vlm.config.bos_first, 0)
        total = Learner(model.vlm)(batch, visual, uses_images=True)
    assert losses["yes"] == pytest.approx(float(total) / len(batch.targets), rel=1e-5)


def test_mistakes_are_one_line(lmms_eval, run, monkeypatch):
    with pytest.raises(SpecError, match=r"--model_args: name a run"):
        model_class()()
    with pytest.raises(SpecError, match=r"--model_args runn: Did you mean run"):
        make(run, ",runn=x")
    with pytest.raises(SpecError, match=r"several_images=last: Allowed: refuse, first"):
        make(run, ",several_images=last")
    with pytest.raises(RunError, match="no trained model here"):
        make(run / "none")
    with pytest.raises(NotImplementedError, match="several rounds"):
        make(run).generate_until_multi_round([])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpecError, match="runs in one process"):
        make(run)


def test_the_real_package_knows_us_if_it_is_here():
    registry = pytest.importorskip("lmms_eval.models", reason="lmms-eval is optional and large")
    if "eyeswap" not in registry.list_available_models():
        pytest.skip("eyeswap was installed before it had this entry point")
    assert registry.get_model("eyeswap").__name__ == "EyeswapVLM"


def test_code_of_a_custom_connector_runs_only_if_trusted(lmms_eval, tiny_llm, tmp_path):
    from eyeswap.backbones.weights import load_backbone
    from eyeswap.vlm.connector import build_connector
    from eyeswap.vlm.model import VisionLanguageModel, load_llm

    file, backbone = tmp_path / "mine.py", load_backbone("digits-vit")
    file.write_text(
        "import torch\n\ndef build(width, llm_width, grid):\n    return torch.nn.Linear(width, llm_width)\n"
    )
    llm, tokenizer, prompt = load_llm(tiny_llm)
    connector = build_connector(f"{file}:build", 128, llm.config.hidden_size, seed=1, grid=backbone.token_grid)
    VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).save(tmp_path / "run" / "model")
    with pytest.raises(SpecError, match=r"its connector is code of its own, mine\.py"):
        make(tmp_path / "run")
    assert make(tmp_path / "run", ",trust_code=True").vlm.config.connector == "mine.py:build"
