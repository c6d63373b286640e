"""The pictures of where answers come from: which arms have them, and what the page is given."""

import base64

import numpy as np
import pytest

from eyeswap.errors import RunError
from eyeswap.probing.looks import Look
from eyeswap.progress import progress
from eyeswap.report.writers.examples import choose_examples, example_data
from eyeswap.report.writers.looks import _coarser, _for_script, are_small, look_at_examples
from eyeswap.runs.folder import StudyFolder


@pytest.fixture(autouse=True)
def _nothing_kept(results):
    yield
    StudyFolder(results.folder).looks.unlink(missing_ok=True)


def test_arms_without_their_models_are_named_and_left_out(results):
    assert not are_small(results)
    with progress() as board:
        looks, problems = look_at_examples(results, board)
    assert looks == {}
    assert [problem.split(":")[0] for problem in problems] == [arm.name for arm in results.finished_arms]


def test_small_models_are_looked_through(results, monkeypatch):
    asked = []

    def load(folder, *, trusts_code):
        if folder.parents[1].name == "vit":
            raise RunError("no trained model here")
        return folder.parents[1].name

    def look(model, picture, prompt, answer):
        asked.append((model, prompt, answer))
        return Look("attention", (2, 2), (0.0, 0.5, 1.0, 0.0), (0.0, -0.25, 1.0, 1.25))

    monkeypatch.setattr("eyeswap.report.writers.looks.load_model", load)
    monkeypatch.setattr("eyeswap.probing.looks.look", look)
    with progress() as board:
        looks, problems = look_at_examples(results, board)
    assert problems == ["vit: not shown where its answers come from: no trained model here"]
    chosen = choose_examples(results)
    assert set(looks) == {(arm.name, *one) for arm in results.finished_arms if arm.name != "vit" for one in chosen}

    number = len(asked)
    with progress() as board:
        assert look_at_examples(results, board)[0] == looks
    assert len(asked) == number  # kept from the first time

    data = example_data(results, looks)
    names = [arm["name"] for arm in data["arms"]]
    assert data["hasLooks"]
    for example in data["examples"]:
        assert [answer["look"] is None for answer in example["answers"]] == [name == "vit" for name in names]
    shown = data["examples"][0]["answers"][names.index("maxvit")]["look"]
    assert shown["canvas"] == [0.0, -0.25, 1.0, 1.25]
    assert list(base64.b64decode(shown["weights"])) == [0, 128, 255, 0]


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{"])
def test_a_damaged_file_of_earlier_looks_counts_as_none(results, content, monkeypatch):
    monkeypatch.setattr("eyeswap.report.writers.looks.load_model", lambda folder, *, trusts_code: None)
    monkeypatch.setattr("eyeswap.probing.looks.look", lambda *about: Look("attention", (1, 1), (1.0,), (0, 0, 1, 1)))
    StudyFolder(results.folder).looks.write_text(content)
    with progress() as board:
        looks, problems = look_at_examples(results, board)
    assert problems == []
    assert len(looks) == len(results.finished_arms) * len(choose_examples(results))


@pytest.mark.parametrize("shape", [(4, 4), (32, 32), (50, 84), (33, 1)])
def test_fine_grids_become_coarser_and_keep_their_mean(shape):
    weights = np.random.default_rng(0).random(shape)
    small = _coarser(weights)
    assert max(small.shape) <= 32
    assert small.mean() == pytest.approx(weights.mean(), rel=0.05)
    if max(shape) <= 32:
        assert np.array_equal(small, weights)
    else:
        block = -(-shape[0] // 32)
        assert small[0, 0] == pytest.approx(weights[:block, : -(-shape[1] // 32)].mean())


def test_weights_are_bytes_whose_largest_is_255():
    content = _for_script(Look("similarity", (1, 3), (0.25, 1.0, 0.0), (0, 0, 1, 1)))
    assert (content["grid"], list(base64.b64decode(content["weights"]))) == ([1, 3], [64, 255, 0])
