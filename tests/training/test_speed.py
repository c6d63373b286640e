"""Speed as it is shown: tokens a second, and what share of the peak they amount to."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_run import fresh, run

from eyeswap.planning.cost import find_language_model, training_flops
from eyeswap.planning.hardware import peak_flops
from eyeswap.training import speed
from eyeswap.training.speed import Meter, pass_flops


def test_flops_of_a_loaded_model_are_those_of_the_estimate(tiny_llm: Path) -> None:
    model = fresh(tiny_llm)
    estimated = training_flops(find_language_model(str(tiny_llm)), connector=0, visual_tokens=0, text_tokens=50)
    assert pass_flops(model, [50]) == pytest.approx(estimated, rel=1e-6)


def test_the_meter_looks_at_the_last_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *(100.0 + step for step in range(30)), *[129.0] * 9])
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))  # other threads keep theirs
    meter = Meter(peak_flops=1000.0)
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
