"""lmms-eval's own command with a run of eyeswap: a local task gives the texts of `eyeswap eval`, whatever the batch.

lmms-eval has an environment of its own, installed as docs/benchmarks.md says, which takes minutes. Where
``EYESWAP_LMMS_EVAL`` names the folder of such a virtual environment, that one is used.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
NUM_QUESTIONS = 24
PROMPT = "Answer the question using a single word or phrase."
TASK = """
task: coloured-squares
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_visual: !function pictures.visual
doc_to_text: !function pictures.text
doc_to_target: answer
generation_kwargs: {max_new_tokens: 128, temperature: 0, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
FUNCTIONS = """
from pathlib import Path

from PIL import Image


def visual(document):
    return [Image.open(Path("IMAGES") / document["image"])]


def text(document):
    return document["question"] + "\\nPROMPT"
"""

pytestmark = [pytest.mark.extended, pytest.mark.timeout(1800)]


def documented_install() -> list[str]:
    """Return the requirements that the documentation passes to pip, without eyeswap itself."""
    (line,) = re.findall(
        r"^pip install -e \. (.*lmms-eval.*)$", (ROOT / "docs/benchmarks.md").read_text(), re.MULTILINE
    )
    return shlex.split(line)


@pytest.fixture(scope="module")
def lmms_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with lmms-eval and eyeswap."""
    folder = os.environ.get("EYESWAP_LMMS_EVAL")
    if folder:
        return Path(folder) / "bin" / "python"
    python = tmp_path_factory.mktemp("lmms-eval") / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "-e", ROOT, *documented_install()]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        errors = [line for line in installed.stderr.splitlines() if line.startswith("ERROR")]
        pytest.skip(f"lmms-eval cannot be installed here: {(errors or ['pip gives no reason'])[-1]}")
    return python


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``run``, the miniature LLM behind an untrained connector, and ``task``, the questions."""
    from eyeswap.backbones.weights import load_backbone
    from eyeswap.shipped import llm_path
    from eyeswap.vlm.connector import build_connector
    from eyeswap.vlm.model import VisionLanguageModel, load_llm

    folder = tmp_path_factory.mktemp("study")
    llm, tokenizer, prompt = load_llm(llm_path("digits-llm"))
    backbone = load_backbone("digits-vit")
    connector = build_connector("gelu-mlp", backbone.network.embed_dim, llm.config.hidden_size, seed=1)
    VisionLanguageModel.from_parts(llm, tokenizer, connector, prompt, backbone).save(folder / "run" / "model")
    task = folder / "task"
    task.mkdir()
    rows = []
    for number in range(NUM_QUESTIONS):
        name = f"{number // 3}.png"  # three questions an image
        picture = Image.new("RGB", (90 + 7 * (number // 3), 120), (30 * (number // 3), 90, 200))
        ImageDraw.Draw(picture).rectangle((5 * number, 10, 5 * number + 30, 60), fill=(250, 10 * number, 0))
        if number % 3 == 0:
            picture.save(task / name)
        question = ("What colour is it?", "How many squares are there?", "Is the square red?")[number % 3]
        rows.append({"id": number, "image": name, "question": question, "answer": "red"})
    (task / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task / "coloured-squares.yaml").write_text(f"metric: exact-match\ndata: rows.jsonl\nprompt: {PROMPT}\n")
    tasks = folder / "lmms-task"
    tasks.mkdir()
    (tasks / "coloured_squares.yaml").write_text(TASK.replace("DATA", str(task / "rows.jsonl")))
    (tasks / "pictures.py").write_text(FUNCTIONS.replace("PROMPT", PROMPT).replace("IMAGES", str(task)))
    return folder


@pytest.fixture(scope="module")
def own_texts(study: Path) -> dict[int, str]:
    """Return the texts of `eyeswap eval` by question."""
    from typer.testing import CliRunner

    from eyeswap.cli.main import app
    from eyeswap.evaluation.predictions import read_predictions

    benchmark = ["--benchmarks", str(study / "task" / "coloured-squares.yaml"), "--data", str(study / "task")]
    result = CliRunner().invoke(app, ["eval", str(study / "run"), *benchmark, "--out", str(study / "own")])
    assert result.exit_code == 0, result.output
    rows = read_predictions(study / "own", "coloured-squares").to_pylist()
    return {int(row["example_id"]): row["answer"] for row in rows}


@pytest.mark.parametrize("batch", [1, 8])
def test_texts_of_the_command_are_those_of_our_own_evaluation(
    lmms_python: Path, study: Path, own_texts: dict[int, str], batch: int
) -> None:
    out = study / f"out-{batch}"
    command = [
        *(lmms_python, "-m", "eyeswap.integrations.lmms_eval"),
        *("--model", "eyeswap", "--model_args", f"run={study / 'run'}"),
        *("--include_path", study / "lmms-task", "--tasks", "coloured-squares", "--batch_size", str(batch)),
        *("--output_path", out, "--log_samples", "--device", "cpu"),
    ]
    local = {"HF_HOME": str(study / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    here = {"PYTHONPATH": str(ROOT / "src"), "ATEN_CPU_CAPABILITY": os.environ["ATEN_CPU_CAPABILITY"]}
    done = subprocess.run(command, env=os.environ | local | here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = out.rglob("*_samples_coloured-squares.jsonl")
    logged = [json.loads(line) for line in samples.read_text().splitlines()]
    texts = {int(row["doc_id"]): row["filtered_resps"] for row in logged}
    assert len(texts) == NUM_QUESTIONS
    assert len(set(own_texts.values())) > 1  # the questions do not all get one answer
    assert texts == own_texts
