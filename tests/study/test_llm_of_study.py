"""Studies with LLMs of other kinds: a Mamba behind a VMamba, and what is refused before anything is spent."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from eyeswap.api import ask
from eyeswap.cli.main import app
from eyeswap.errors import SpecError
from eyeswap.evaluation.hallucination import POPE
from eyeswap.files import read_json, write_json
from eyeswap.planning.spec import load_study
from eyeswap.runs.folder import StudyFolder
from eyeswap.study import train_run
from eyeswap.study.execute import run_study
from eyeswap.vlm.processor import VisionLanguageProcessor

FRAME = (
    "{% for message in messages %}{% if message.role == 'user' %}USER: {{ message.content }} ASSISTANT:"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
STUDY = """
question: Can a VLM be made of state space models alone?
recipe:
  data: {{name: digits, seed: 1, num_train_images: 16, num_val_images: 4, turns: {turns}}}
  llm: {llm}
  global_batch: 8
  max_steps: 2
  lr: 1e-3
  precision: fp32
arms: {{vmamba: digits-vmamba}}
benchmarks: [vqav2, pope]
seeds: [7, 8]
subset: 4
"""


def make_llm(folder: Path, tiny_llm: Path, template: str, kind: str = "mamba", **settings: object) -> Path:
    """A tiny LLM of some kind with the miniature tokenizer and a template."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.chat_template = template
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, **settings}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_study(folder: Path, llm: Path, turns: int = 2) -> Path:
    (folder / "ssm.yaml").write_text(STUDY.format(llm=llm, turns=turns))
    return folder / "ssm.yaml"


def run(file: Path) -> StudyFolder:
    return StudyFolder(run_study(load_study(file), file, file.parent / "runs", Console(file=io.StringIO())))


@pytest.mark.extended
def test_a_vlm_of_state_space_models_alone(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The template prints a date: that of the first run, in every run, and in the saved model."""

    class Day(date):
        days = iter([date(2026, 1, 31), date(2026, 2, 1)])

        @classmethod
        def today(cls) -> date:
            return next(cls.days)

    monkeypatch.setattr(train_run, "date", Day)
    template = "Today: {{ strftime_now('%d %b %Y') }} " + FRAME
    llm = make_llm(tmp_path / "mamba", tiny_llm, template, state_size=4)
    study = run(write_study(tmp_path, llm))
    assert read_json(study.prompt_date) == {"date": "2026-01-31"}
    for seed in (7, 8):
        folder = study.run("vmamba", seed)
        scores, record = read_json(folder.scores), read_json(folder.record)
        assert set(scores["benchmarks"]) == {"vqav2", "pope"}
        assert scores["errors"] == 0
        assert record["observed"]["llm_positions"] is None
        assert record["train_prompt"].startswith("Today: 31 Jan 2026 USER: ")
        processor = VisionLanguageProcessor.from_pretrained(folder.model)
        assert processor.prompt.question("Hi") == "Today: 31 Jan 2026 USER: Hi ASSISTANT:"
    image = next(path for path in sorted(study.data.rglob("*")) if path.suffix in (".jpg", ".png"))
    assert isinstance(ask(study.run("vmamba", 7).path, image, "How many digits are there?").text, str)


REWRITES = FRAME.replace(
    "{{ message.content }}{{ eos", "{% if loop.last %}Well: {% endif %}{{ message.content }}{{ eos"
)


def test_what_the_llm_cannot_be_taught_is_refused_before_images_are_drawn(tiny_llm: Path, tmp_path: Path):
    llm = make_llm(tmp_path / "llm", tiny_llm, REWRITES, "gpt2", n_head=2)
    with pytest.raises(SpecError, match=r"rewrites earlier turns at turn 3; .* set recipe.prompt: vicuna"):
        run(write_study(tmp_path, llm))
    assert not (tmp_path / "runs" / "ssm" / "data").exists()
    planned = CliRunner().invoke(app, ["study", "plan", str(tmp_path / "ssm.yaml"), "--runs", str(tmp_path / "runs")])
    assert planned.exit_code != 0
    assert "rewrites earlier turns" in str(planned.exception) + planned.output


def test_one_question_a_conversation_may_be_rewritten(tiny_llm: Path, tmp_path: Path):
    from eyeswap.planning.llm import check_llm

    llm = make_llm(tmp_path / "llm", tiny_llm, REWRITES, "gpt2", n_head=2)
    check_llm(load_study(write_study(tmp_path, llm, turns=1)))
    conversation = {"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}] * 2}
    write_json(tmp_path / "mix.json", [conversation])
    text = (tmp_path / "ssm.yaml").read_text()
    start = text.index("{name: digits")
    folder = f"{{folder: {tmp_path}, instruction: mix.json}}"
    (tmp_path / "ssm.yaml").write_text(text[:start] + folder + text[text.index("\n  llm") :])
    with pytest.raises(SpecError, match="rewrites earlier turns"):
        check_llm(load_study(tmp_path / "ssm.yaml"))


def test_a_benchmark_whose_choices_are_no_tokens_is_refused_at_once(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    llm = make_llm(tmp_path / "llm", tiny_llm, FRAME, "gpt2", n_head=2)
    monkeypatch.setattr(POPE, "choices", property(lambda self: ("Yes", "zebra")))
    with pytest.raises(SpecError, match="choice 'zebra' is 5 tokens of this LLM"):
        run(write_study(tmp_path, llm))
    assert not (tmp_path / "runs" / "ssm" / "data").exists()


def test_the_shipped_llm_can_be_asked_every_published_benchmark_so_that_a_plan_need_not_try() -> None:
    from eyeswap.evaluation import BENCHMARKS, TEST_SPLITS
    from eyeswap.planning.llm import check_questions
    from eyeswap.planning.spec import Study
    from eyeswap.shipped import llm_path
    from eyeswap.vlm.llm import load_tokenizer

    text = {"recipe": {"data": "digits", "llm": "digits-llm"}, "arms": {"vit": "digits-vit"}}
    study = Study.model_validate({"name": "all", "question": "All?", **text, "benchmarks": [*BENCHMARKS, *TEST_SPLITS]})
    check_questions(study, study.recipe, *load_tokenizer(llm_path("digits-llm"), study.recipe.prompt))
