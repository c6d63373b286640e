"""What arms may differ in beside the backbone: connectors that change the tokens, and settings of the recipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from eyeswap.audit.audit import audit
from eyeswap.errors import SpecError
from eyeswap.files import read_json
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import load_study
from eyeswap.recipe import DigitsData, Recipe
from eyeswap.results.run import load_runs
from eyeswap.runs.folder import StudyFolder
from eyeswap.study.execute import run_study

pytestmark = pytest.mark.extended

STUDY = """
question: Do arms differ in what they say?
recipe:
  data: {{name: digits, seed: 1, num_train_images: 16, num_val_images: 4, turns: 2}}
  llm: {llm}
  global_batch: 4
  max_steps: 3
  lr: 1e-3
  warmup_fraction: 0
  precision: fp32
  align: {{share: 0.5, lr: 5e-3}}
arms:
  plain: digits-vit
  pooled: {{backbone: digits-vit, connector: pool-2x2+gelu-mlp}}
  own: {{backbone: digits-vit, connector: my_connector.py:build}}
  faster: {{backbone: digits-vit, lr: 2e-3}}
  connector: {{backbone: digits-vit, trainable: connector}}
  staged: {{backbone: digits-vit, stages: align-then-tune}}
  other-data: {{backbone: digits-vit, data: {{name: digits, seed: 2, num_train_images: 16, num_val_images: 1}}}}
may_differ: [backbone, connector, lr, trainable, stages, data]
matched: [tokens]
benchmarks: [pope]
subset: 4
"""
CONNECTOR = """
import torch

class EverySecond(torch.nn.Module):
    def __init__(self, d, D):
        super().__init__()
        self.layer = torch.nn.Linear(d, D)

    def forward(self, tokens):
        return self.layer(tokens[:, ::2])

def build(vision_width, llm_width, grid):
    return EverySecond(vision_width, llm_width)
"""


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def study_file(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factors")
    (folder / "my_connector.py").write_text(CONNECTOR)
    (folder / "factors.yaml").write_text(STUDY.format(llm=tiny_llm))
    return folder / "factors.yaml"


@pytest.fixture(scope="module")
def finished(study_file: Path) -> StudyFolder:
    return StudyFolder(run_study(load_study(study_file), study_file, study_file.parent / "runs", quiet()))


def weights(study: StudyFolder, arm: str, part: str) -> dict[str, torch.Tensor]:
    state = load_file(study.run(arm, 7).model / "model.safetensors")
    return {key: value for key, value in state.items() if key.startswith(f"{part}.")}


def rates(study: StudyFolder, arm: str) -> list[float]:
    return [row["lr"] for row in load_runs([study.run(arm, 7).path])[0].training_rows]


def test_the_audit_explains_every_difference_by_what_is_declared(finished: StudyFolder) -> None:
    report = audit(load_runs([finished.path]))
    assert not report.undeclared
    assert not report.errors
    declared = {fact.title for fact in report.declared}
    expected = {"connector", "visual tokens", "learning rate", "trained parts", "training stages", "training data"}
    assert expected <= declared
    (unequal,) = (finding for finding in report.warnings if finding.key == "unequal-tokens")
    assert unequal.severity == "warning"
    assert set(unequal.evidence["tokens"].values()) == {64, 32, 16}


def test_records_and_models_have_the_tokens_that_the_llm_saw(finished: StudyFolder) -> None:
    for arm, count in {"plain": 64, "pooled": 16, "own": 32}.items():
        folder = finished.run(arm, 7)
        assert read_json(folder.record)["connector"]["num_tokens"] == count
        assert read_json(folder.model / "processor_config.json")["num_visual_tokens"] == count
    assert (finished.run("own", 7).model / "my_connector.py").read_text() == CONNECTOR
    tokens = list(finished.tokens.glob("*/about.json"))
    assert len(tokens) == 1  # connectors share what the backbone said


def test_only_what_is_trainable_learns(finished: StudyFolder, tiny_llm: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained(tiny_llm).state_dict()
    frozen = weights(finished, "connector", "llm")
    assert all(value.equal(frozen[f"llm.{key}"]) for key, value in before.items() if f"llm.{key}" in frozen)
    learnt = weights(finished, "plain", "llm")
    assert any(not value.equal(learnt[f"llm.{key}"]) for key, value in before.items() if f"llm.{key}" in learnt)
    first, other = (weights(finished, arm, "connector") for arm in ("connector", "plain"))
    assert any(not first[key].equal(other[key]) for key in first)


def test_learning_rates_are_those_of_arm_and_stage(finished: StudyFolder) -> None:
    assert rates(finished, "plain")[0] == 1e-3
    assert rates(finished, "faster") == pytest.approx([2 * rate for rate in rates(finished, "plain")])
    assert rates(finished, "staged") == pytest.approx([5e-3, 2.5e-3, 1e-3])  # two steps of three align


def test_a_changed_connector_file_is_another_model(finished: StudyFolder, study_file: Path) -> None:
    file = study_file.parent / "my_connector.py"
    file.write_text(CONNECTOR + "# changed\n")
    try:
        with pytest.raises(SpecError, match=r"weights\.connector_file was sha256"):
            run_study(load_study(study_file), study_file, study_file.parent / "runs", quiet())
    finally:
        file.write_text(CONNECTOR)
    states = {run.arm: run.state() for run in plan_runs(load_study(study_file), study_file.parent / "runs")}
    assert set(states.values()) == {"done"}


def test_another_setting_of_an_arm_is_named(finished: StudyFolder, study_file: Path) -> None:
    study = load_study(study_file, ["arms.faster.lr=4e-3", "arms.staged.stages=one"])
    changes = {run.arm: [str(one) for one in run.changes()] for run in plan_runs(study, study_file.parent / "runs")}
    assert changes["faster"] == ["arm.lr was 0.002 and is 0.004"]
    assert changes["staged"] == ['arm.stages was "align-then-tune" and is "one"']
    assert changes["plain"] == []


def test_digests_are_as_they_were_where_nothing_new_is_used() -> None:
    recipe = Recipe(data=DigitsData(), llm="x")
    assert recipe.digest == "0b25608e7af4dbf604784527b083c5ff4f151b529e6f74f4ae497043b091b522"
    assert not {"trainable", "stages", "align"} & set(recipe.model_dump())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["arms.faster.trainable=connector+adapters"], "arms.faster: trainable connector.adapters: set lora_rank"),
        (["arms.connector.stages=align-then-tune"], "with trainable connector there is nothing to tune"),
        (["arms.faster.llm=digits-llm"], "arms.faster.llm: arms may not differ here; add llm to may_differ"),
        (["recipe.align={share: 1.5}"], "recipe.align.share: should be less than 1"),
        (["arms.pooled.connector=pool-0x2+gelu-mlp"], "arms.pooled.connector: unknown step 'pool-0x2'"),
        (["arms.own.connector=nowhere.py"], "nowhere.py does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(study_file: Path, changes: list[str], told: str) -> None:
    with pytest.raises(SpecError, match=told) as caught:
        load_study(study_file, changes)
    assert "\n" not in str(caught.value)
