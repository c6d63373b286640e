"""Training in two processes: the losses of one, the checkpoints of either, and no process left waiting."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import equal, fresh, losses

from eyeswap.errors import SpecError
from eyeswap.files import read_safetensors
from eyeswap.processes import Ranks, this_process
from eyeswap.recipe import Execution
from eyeswap.training.lora import merged
from eyeswap.training.parallel import mesh_of, unsharded_state
from eyeswap.vlm.model import VisionLanguageModel

pytestmark = pytest.mark.extended

WAYS = ["padded", "packed", "packed and more", "adapters", "published"]


@pytest.fixture(scope="module")
def runs(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    (folder / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (40, 30), (20 * number, 90, 10)).save(folder / "images" / f"{number}.png")
    script = Path(__file__).with_name("process_groups.py")
    done = subprocess.run([sys.executable, script, tiny_llm, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "ended.json").write_text(done.stdout.splitlines()[-1])
    (folder / "stderr").write_text(done.stderr)
    return folder


def ended(runs: Path, name: str) -> list[list[int]]:
    return json.loads((runs / "ended.json").read_text())[name]


def said(runs: Path, name: str, rank: int) -> dict:
    return json.loads((runs / name / f"said-{rank}.json").read_text())


def weights(runs: Path, name: str) -> dict[str, torch.Tensor]:
    return read_safetensors(runs / name / "weights.safetensors")


def close(runs: Path, one: str, other: str) -> bool:
    np.testing.assert_allclose(losses(runs / one), losses(runs / other), rtol=1e-5)
    for key, value in weights(runs, one).items():
        torch.testing.assert_close(weights(runs, other)[key], value, rtol=1e-3, atol=1e-4)
    return len(losses(runs / one)) == 4


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_have_the_losses_of_one(runs: Path, way: str):
    assert ended(runs, f"{way} in 2") == [[0, 0]], (runs / "stderr").read_text()
    assert close(runs, f"{way} in 2", f"{way} in 0")


def test_the_exact_loss_does_not_depend_on_packing_or_processes(runs: Path):
    for first, *others in (
        ("packed in 0", "packed in 1", "packed in 2", "chunked in 2", "often in 2"),
        ("padded in 0", "padded in 2", "packed and more in 0", "packed and more in 2"),
    ):
        for name in others:
            np.testing.assert_allclose(losses(runs / name), losses(runs / first), rtol=1e-5)
    assert abs(losses(runs / "published in 2")[0] - losses(runs / "packed in 0")[0]) > 1e-4


def test_one_gpu_is_a_group_of_one(runs: Path):
    assert close(runs, "packed in 1", "packed in 0")


def test_bf16_holds_float32_masters_and_comes_close(runs: Path):
    assert ended(runs, "bf16 in 2") == [[0, 0]]
    for name in ("bf16 in 1", "bf16 in 2"):
        np.testing.assert_allclose(losses(runs / name), losses(runs / "packed in 0"), rtol=2e-2)
        assert all(value.dtype == torch.float32 for value in weights(runs, name).values())


@pytest.mark.parametrize("name", ["two then one", "one then two"])
def test_a_checkpoint_of_one_number_of_processes_goes_on_in_another(runs: Path, name: str):
    assert ended(runs, name)[1] in ([0], [0, 0])
    assert close(runs, name, "often in 2")


def test_two_killed_processes_end_as_if_they_had_not_been(runs: Path):
    assert ended(runs, "killed") == [[-9, -9], [-9, -9], [0, 0]]
    assert losses(runs / "killed") == losses(runs / "often in 2")
    assert equal(weights(runs, "killed"), weights(runs, "often in 2"))


def test_a_damaged_shard_is_passed_over_by_all(runs: Path):
    assert losses(runs / "truncated") == losses(runs / "often in 2")
    (told,) = said(runs, "truncated", 0)["told"]
    assert "damaged" in told
    assert "resuming from step-0000000" in told
    assert said(runs, "truncated", 1)["told"] == []  # once is enough


def test_a_bad_loss_ends_all_processes_with_one_message(runs: Path):
    assert ended(runs, "spoilt") == [[0, 0]]
    first, second = (said(runs, "spoilt", rank)["error"] for rank in (0, 1))
    assert first == second
    assert "loss is nan at step 3 (examples id-" in first
    assert "step-00000003" in first


def test_a_process_that_fails_alone_leaves_no_other_waiting(runs: Path):
    ((first, second),) = ended(runs, "failing")
    assert first != 0
    assert second == 0
    assert said(runs, "failing", 1)["error"] == "images/5.png: not a readable image"
    assert "Connection closed by peer" in (runs / "stderr").read_text()


def test_a_checkpoint_that_one_process_cannot_write_ends_all(runs: Path):
    assert ended(runs, "full")[1] == [0, 0]
    first, second = (said(runs, "full", rank)["error"] for rank in (0, 1))
    assert "could not be written (No space left on device); the last checkpoint is" in first
    assert "another process could not write its checkpoint; the last checkpoint is" in second
    assert list((runs / "full" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(("name", "is_training"), [("live in 2", False), ("as published in 2", True)])
def test_every_process_has_the_whole_frozen_backbone(runs: Path, name: str, is_training: bool):
    for rank in (0, 1):
        report = said(runs, name, rank)
        assert report["same"]  # after training, whatever drifted
        assert len(report["seen"]) == 4
        for seen in report["seen"]:
            assert seen == {
                "training": is_training,
                "sharded": False,
                "learns": False,
                "rest sharded": True,
            }


def test_live_tokens_of_two_processes_give_the_losses_of_one(runs: Path):
    np.testing.assert_allclose(losses(runs / "live in 2"), losses(runs / "live in 0"), rtol=1e-5)


@pytest.mark.parametrize("way", ["packed", "adapters"])
def test_weights_read_after_sharding_train_to_the_same_bits(runs: Path, way: str):
    assert ended(runs, f"{way}, deferred") == [[0, 0]], (runs / "stderr").read_text()
    assert losses(runs / f"{way}, deferred") == losses(runs / f"{way} in 2")
    assert equal(weights(runs, f"{way}, deferred"), weights(runs, f"{way} in 2"))


@pytest.mark.parametrize("way", ["packed", "adapters"])
def test_a_model_saved_tensor_by_tensor_is_the_model_saved_as_a_whole(runs: Path, tmp_path: Path, way: str, tiny_llm):
    folder, state = runs / f"{way}, deferred" / "model", weights(runs, f"{way} in 2")
    fresh(tiny_llm).save_pretrained(tmp_path, state_dict=merged(state))
    names = {file.name for file in folder.iterdir()}
    assert len(list(folder.glob("model-0000*-of-0000*.safetensors"))) > 2
    assert {name for name in names if "safetensors" not in name} == {"config.json", "generation_config.json"}
    for name in ("config.json", "generation_config.json"):
        assert (folder / name).read_text() == (tmp_path / name).read_text()
    saved = VisionLanguageModel.from_pretrained(folder).state_dict()
    assert equal(saved, VisionLanguageModel.from_pretrained(tmp_path).state_dict())


def test_copies_of_the_weights_train_as_one(runs: Path, monkeypatch: pytest.MonkeyPatch):
    assert ended(runs, "two halves") == [[0, 0, 0, 0]], (runs / "stderr").read_text()
    assert close(runs, "two halves", "packed in 0")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(SpecError, match=r"^execution\.shard_over: 3 does not divide the 4 processes of this run$"):
        mesh_of(Ranks(0, 4), 3)


def test_alone_nothing_is_sharded(tiny_llm: Path):
    ranks = this_process()
    assert (ranks.rank, ranks.size, ranks.is_first) == (0, 1, True)
    assert ranks.sum(1.5, 2.0) == [1.5, 2.0]
    model = fresh(tiny_llm)
    assert equal(unsharded_state(model), model.state_dict())
    assert not Execution().reduce_once
