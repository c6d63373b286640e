"""Score against the token budget: drawn where a backbone has arms with different numbers of tokens, and not else."""

import json

from made_study import write_study

from eyeswap.files import write_json
from eyeswap.planning.profile import Cell, write_csv
from eyeswap.report import analyse
from eyeswap.report.analysis.costs import budgets
from eyeswap.report.figures import plots

CONNECTORS = {
    "vit-64": "gelu-mlp", "vit-16": "pool-2x2+gelu-mlp", "vit-4": "pool-4x4+gelu-mlp",
    "vmamba-64": "gelu-mlp", "vmamba-16": "pixel-shuffle-2+gelu-mlp",
}  # fmt: skip
SKILLS = {
    "vit-64": (0.6, 0.25), "vit-16": (0.58, 0.3), "vit-4": (0.5, 0.1), "vmamba-64": (0.7, 0.6), "vmamba-16": (0.66, 0.4)
}  # fmt: skip


def write_budget_study(folder):
    """Write a study whose arms differ in backbone and connector, with a profile of this machine."""
    arms = {name: f"digits-{name.partition('-')[0]}" for name in CONNECTORS}
    write_study(folder, arms=arms, skills=SKILLS, num_images=20, num_examples=60)
    study = json.loads((folder / "study.json").read_text())
    for name, connector in CONNECTORS.items():
        study["arms"][name]["connector"] = connector
        path = folder / name / "seed-7" / "spec.json"
        record = json.loads(path.read_text())
        record["connector"] |= {"kind": connector, "num_tokens": int(name.partition("-")[2])}
        write_json(path, record)
    study["may_differ"] = ["backbone", "connector"]
    write_json(folder / "study.json", study)
    cells = [
        Cell(arms[name], 128, tokens, 0.01, 0.001, 0.002 * tokens, 0.01, 0.01 + 0.002 * tokens, connector=connector)
        for name, connector in CONNECTORS.items()
        for tokens in [int(name.partition("-")[2])]
    ]
    write_csv(folder / "profile.csv", cells)
    return folder


def test_costs_are_those_of_what_the_llm_sees(tmp_path):
    analysis = analyse(write_budget_study(tmp_path / "synthetic"))
    found = {one.key: one.values for one in budgets(analysis.results, analysis.profile)}
    assert found["tokens"] == {name: float(name.partition("-")[2]) for name in CONNECTORS}
    assert found["flops"]["vit-4"] < found["flops"]["vit-16"] < found["flops"]["vit-64"]
    assert found["seconds"]["vmamba-16"] == 0.042


def test_the_figure_has_a_curve_a_backbone_and_every_number(tmp_path):
    analysis = analyse(write_budget_study(tmp_path / "synthetic"))
    plot = plots(analysis)["token-budget"]
    head, *rows = plot.data
    costs = ["visual tokens", "FLOPs a question", "seconds to the first token"]
    assert head == ["backbone", "arm", "VQA, %", "Localization, %", *costs]
    assert [row[:2] for row in rows] == [[f"digits-{name.partition('-')[0]}", name] for name in CONNECTORS]
    for width, num_panels in ((9.4, 6), (3.6, 2)):
        figure = plot.draw(analysis, width)
        assert len(figure.axes) == num_panels
        assert {"digits-vit", "digits-vmamba"} <= set(figure.axes[0].get_legend_handles_labels()[1])


def test_arms_with_equal_tokens_have_no_such_figure(study_dir):
    assert "token-budget" not in plots(analyse(study_dir))
