"""Training as a whole, tiny: the loss does not depend on how it is carried out; bad losses end the run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import equal, fresh, losses, recipe, run, tiny_data

from eyeswap.errors import RunError, SpecError
from eyeswap.recipe import Execution
from eyeswap.training import attention as layers
from eyeswap.training.loop import train


def test_two_runs_with_one_seed_give_identical_weights(tiny_llm: Path, tmp_path: Path):
    assert equal(run(tiny_llm, tmp_path / "a"), run(tiny_llm, tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a")[-1] < losses(tmp_path / "a")[0]


def test_a_row_of_the_log_holds_what_readers_expect(tiny_llm: Path, tmp_path: Path):
    run(tiny_llm, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(8))
    assert set(rows[0]) == {"step", "loss", "lr", "grad_norm", "answer_tokens", "tokens", "elapsed_s"}
    model = fresh(tiny_llm)
    data = tiny_data(model)
    for row, batch in zip(rows, data.order, strict=True):
        assert row["answer_tokens"] == data.conversations.num_targets[batch].sum()
        assert row["tokens"] == sum(data.lengths[index] for index in batch)


HOW = {
    "micro-batches": ({"micro_batch": 2}, Execution()),
    "packed": ({}, Execution(tokens_per_pass=64)),
    "packed alone": ({}, Execution(tokens_per_pass=1)),
    "recomputed": ({}, Execution(recompute=True)),
    "elementwise recomputed": ({"micro_batch": 2}, Execution(recompute="elementwise")),
    "packed, elementwise recomputed": ({}, Execution(tokens_per_pass=64, recompute="elementwise")),
    "packed and recomputed": ({}, Execution(tokens_per_pass=128, recompute=True)),
    "compiled and recomputed": ({}, Execution(compile=True, recompute=True)),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the compiler's own
@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.extended) if "compiled and" in how else how for how in HOW]
)
def test_the_exact_loss_does_not_depend_on_how_it_is_carried_out(
    tiny_llm: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(layers, "COMPILER", "aot_eager")  # the same graphs, without a minute of C++
    changes, execution = HOW[how]
    whole = run(tiny_llm, tmp_path / "whole")
    other = run(tiny_llm, tmp_path / "other", recipe(**changes), execution)
    np.testing.assert_allclose(losses(tmp_path / "other"), losses(tmp_path / "whole"), rtol=1e-4)
    for key, weights in whole.items():
        torch.testing.assert_close(other[key], weights, rtol=1e-2, atol=1e-3)


def test_the_published_loss_is_the_mean_of_the_means_of_micro_batches(tiny_llm: Path, tmp_path: Path):
    run(tiny_llm, tmp_path / "exact")
    run(tiny_llm, tmp_path / "published", recipe(micro_batch=2, loss="micro-batch-mean", published_gpus=2))
    assert abs(losses(tmp_path / "published")[0] - losses(tmp_path / "exact")[0]) > 1e-4
    with pytest.raises(SpecError, match="tokens_per_pass: loss micro-batch-mean"):
        run(
            tiny_llm,
            tmp_path / "both",
            recipe(loss="micro-batch-mean", published_gpus=1),
            Execution(tokens_per_pass=64),
        )


def test_a_model_comes_back_as_it_was_but_trained(tiny_llm: Path, tmp_path: Path):
    model = fresh(tiny_llm)
    attention = model.llm.config._attn_implementation
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    execution = Execution(tokens_per_pass=64, recompute=True)
    train(model, tiny_data(model), recipe(), tmp_path, "d", execution=execution)
    assert torch.rand(1).equal(drawn)
    assert not model.training
    assert model.llm.config._attn_implementation == attention
    assert all("forward" not in vars(layer) for layer in model.llm.model.layers)


def test_dropout_is_drawn_from_the_step_so_that_runs_repeat(tiny_llm: Path, tmp_path: Path):
    def with_dropout(folder: Path, seed: int) -> list[float]:
        model = fresh(tiny_llm)
        for layer in model.llm.model.layers:
            layer.mlp.register_forward_hook(lambda module, inputs, out: torch.dropout(out, 0.5, module.training))
        train(model, tiny_data(model), recipe(), folder, "d", seed=seed)
        return losses(folder)

    first, again, other = (with_dropout(tmp_path / str(n), seed) for n, seed in enumerate((1, 1, 2)))
    assert first == again != other


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_examples(tiny_llm: Path, tmp_path: Path):
    model = fresh(tiny_llm)
    with torch.no_grad():
        model.connector[0].weight.fill_(float("nan"))
    with pytest.raises(RunError, match=r"loss is nan at step 0 \(examples id-.*there is no checkpoint yet"):
        train(model, tiny_data(model), recipe(), tmp_path, "d")


def test_a_loss_that_turns_bad_names_the_last_checkpoint(tiny_llm: Path, tmp_path: Path):
    model = fresh(tiny_llm)
    data = tiny_data(model)
    step = max(step for step in range(4) if data.images[data.order[step][0]] is not None)
    (late, *_) = set(data.order[step]) - set(data.order[:step].flatten())
    data.source.cache.tokens[late] = np.nan
    with pytest.raises(RunError, match=rf"loss is nan at step {step} .*the last checkpoint is .*step-0000000{step};"):
        train(model, data, recipe(), tmp_path, "d", execution=Execution(checkpoint_every_s=0))
