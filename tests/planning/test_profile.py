"""Profiles measure what runs, say why the rest does not, and end in a table for machines and a picture."""

import csv

import pytest
import torch
from PIL import Image

from eyeswap.errors import CheckpointError, SpecError
from eyeswap.planning.profile import BACKBONES, IN_FIGURE, Cell, Setting, build_llm, profile, study_grid, write_csv
from eyeswap.planning.spec import Study
from eyeswap.report.figures.profile import draw_profile
from eyeswap.results.published import published_profile

SETTING = Setting(torch.device("cpu"), torch.float32, batch=2, prompt_tokens=4, longest_s=600.0)


@pytest.fixture(scope="module")
def cells():
    names = ["digits-vmamba", "digits-vit"]
    return list(profile(names, [64, 96, 100], build_llm("digits-llm", SETTING), SETTING))


def test_every_stage_is_measured_and_tokens_are_real(cells):
    measured = [cell for cell in cells if not cell.problem]
    assert [(cell.backbone, cell.side_px) for cell in measured][:2] == [("digits-vmamba", 64), ("digits-vmamba", 96)]
    for cell in measured:
        assert all(getattr(cell, stage) > 0 for stage in ("vision_s", "connector_s", "prefill_s", "decode_s"))
        assert cell.end_to_end_s == pytest.approx(cell.vision_s + cell.connector_s + cell.prefill_s)
        assert cell.tokens >= (cell.side_px // 16) ** 2
        assert cell.images_per_s > 0


def test_what_cannot_run_says_why(cells):
    (cell,) = [cell for cell in cells if cell.problem]
    assert (cell.backbone, cell.side_px) == ("digits-vit", 100)
    assert "100" in cell.problem
    assert cell.vision_s is None


def test_larger_images_are_left_out_once_it_takes_too_long():
    setting = Setting(torch.device("cpu"), torch.float32, batch=1, prompt_tokens=4, longest_s=1e-6)
    first, second = profile(["digits-vit"], [96, 64], build_llm("digits-llm", setting), setting)
    assert (first.side_px, first.problem) == (64, "")
    assert "skipped" in second.problem


def test_sequences_beyond_the_positions_of_the_llm_are_marked():
    llm = build_llm("digits-llm", SETTING)
    llm.config.max_position_embeddings = 10
    (cell,) = profile(["digits-vit"], [64], llm, SETTING)
    assert cell.beyond_positions


def test_the_default_grid_exists_in_the_catalog_and_mistakes_are_told_first():
    from eyeswap.backbones import catalog

    assert [catalog.entry(name).name for name in BACKBONES] == list(BACKBONES)
    with pytest.raises(SpecError, match="no-such"):
        next(profile(["digits-vit", "no-such"], [64], build_llm("digits-llm", SETTING), SETTING))
    with pytest.raises(CheckpointError, match="no such folder"):
        build_llm("nowhere", SETTING)


def test_csv_and_picture(cells, tmp_path):
    write_csv(tmp_path / "profile.csv", cells)
    rows = list(csv.DictReader((tmp_path / "profile.csv").read_text().splitlines()))
    assert len(rows) == len(cells)
    assert float(rows[0]["vision_s"]) == cells[0].vision_s
    assert rows[-1]["vision_s"] == ""
    draw_profile([*cells, Cell("digits-vit", 512, problem="out of memory")], "a machine", tmp_path / "profile.png")
    with Image.open(tmp_path / "profile.png") as picture:
        assert picture.width > 1000


def test_the_grid_of_a_study_is_that_of_its_arms(tmp_path):
    study = {
        "name": "s", "question": "?", "recipe": {"data": "digits", "llm": "digits-llm"}, "benchmarks": ["pope"],
        "arms": {"vit": "digits-vit", "same": "digits-vit", "vmamba": "digits-vmamba", "timm": "timm:resnet10t"},
    }  # fmt: skip
    assert study_grid(Study.model_validate(study)) == (("digits-vit", "digits-vmamba"), (128,))
    with pytest.raises(SpecError, match="no arm has a backbone from the catalog"):
        study_grid(Study.model_validate({**study, "arms": {"timm": "timm:resnet10t"}}))


def test_every_point_of_figure_4_has_its_backbone():
    assert {point.model for point in published_profile()} == set(IN_FIGURE.values())
