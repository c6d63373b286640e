"""Speed (tokens per second and share of the peak) and detection of divergence."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import fresh, run

from eyeswap.planning.cost import find_language_model, training_flops
from eyeswap.planning.hardware import peak_flops
from eyeswap.training import speed
from eyeswap.training.speed import SpeedMeter, divergence, pass_flops


def test_flops_of_a_loaded_model_are_those_of_the_estimate(tiny_llm: Path) -> None:
    model = fresh(tiny_llm)
    estimated = training_flops(find_language_model(str(tiny_llm)), connector=0, visual_tokens=0, text_tokens=50)
    assert pass_flops(model, [50]) == pytest.approx(estimated, rel=1e-6)


def test_the_meter_looks_at_the_last_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *(100.0 + step for step in range(30)), *[129.0] * 9])
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))  # other threads keep theirs
    meter = SpeedMeter(peak_flops=1000.0)
    for _ in range(30):
        meter.add(num_tokens=50, flops=400.0)
    assert meter.tokens_per_s == pytest.approx(50)
    assert meter.mfu == pytest.approx(0.4)
    assert meter.note == "50 tokens/s, MFU 40%"


def test_the_live_line_tells_loss_speed_and_utilisation_if_the_peak_is_known(tiny_llm: Path, tmp_path: Path) -> None:
    told = []
    run(tiny_llm, tmp_path / "a", report=lambda done, note: told.append(note), peak_flops=1e12)
    assert all("loss " in note and " tokens/s, MFU " in note for note in told)
    run(tiny_llm, tmp_path / "b", report=lambda done, note: told.append(note))
    assert "MFU" not in told[-1]


@pytest.mark.parametrize(
    ("driver", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GeForce RTX 4090", 165),
        ("Some Other Card", None),
    ],
)
def test_the_peak_follows_from_the_name_that_the_driver_gives(driver: str, tflops: float | None) -> None:
    assert peak_flops(driver) == (None if tflops is None else tflops * 1e12)


VOCABULARY = 32_064
UNIFORM = math.log(VOCABULARY)  # 10.4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_divergence(bad: float):
    assert divergence(bad, 1.0, [], VOCABULARY) == f"loss is {bad}"
    assert divergence(1.0, bad, [], VOCABULARY) == f"gradient norm is {bad}"


def test_a_loss_far_above_uniform_predictions_is_divergence_from_the_first_step():
    assert divergence(2.1 * UNIFORM, 1.0, [], VOCABULARY) == (
        f"loss diverged to {2.1 * UNIFORM:.2f}, over twice that of uniform predictions"
    )
    assert divergence(1.5 * UNIFORM, 1.0, [], VOCABULARY) is None  # an untrained model may be sure of wrong things


def test_a_jump_of_the_loss_is_divergence():
    assert divergence(6.0, 1.0, [1.2] * 100, VOCABULARY) == "loss diverged from 1.200 to 6.00"
    assert divergence(6.0, 1.0, [1.2] * 99, VOCABULARY) is None  # too early to say what is usual
    assert divergence(4.9, 1.0, [1.2] * 100, VOCABULARY) is None  # more than four times, but still knowing something
    assert divergence(6.0, 1.0, [1.2] * 900 + [2.0] * 100, VOCABULARY) is None  # the last hundred count


@given(st.lists(st.floats(0, UNIFORM / 2), min_size=0, max_size=200), st.floats(0, UNIFORM / 2), st.floats(0, 1e6))
def test_no_loss_below_half_of_uniform_predictions_is_divergence(earlier: list[float], loss: float, norm: float):
    assert divergence(loss, norm, earlier, VOCABULARY) is None
