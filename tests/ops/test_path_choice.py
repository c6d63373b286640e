"""Which path runs is said by name, logged once, and never changed in silence."""

import importlib.util
import logging
from types import SimpleNamespace

import pytest
import torch

from eyeswap.errors import EnvironmentProblem, SpecError
from eyeswap.ops.selective_scan import _log, choose_path, selective_scan

GPU = SimpleNamespace(device=torch.device("cuda"))  # choosing looks at the device alone
CPU = torch.empty(0)
OTHER = torch.empty(0, device="meta")


@pytest.fixture(autouse=True)
def _fresh_log(monkeypatch, caplog):
    _log.cache_clear()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    caplog.set_level(logging.INFO, logger="eyeswap.ops.selective_scan")


@pytest.fixture
def triton_is(monkeypatch):
    def install(there):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)

    return install


@pytest.mark.parametrize(
    ("asked", "tensor", "has_triton", "chosen"),
    [
        ("auto", CPU, True, "numba"),
        ("auto", CPU, False, "numba"),
        ("auto", GPU, True, "triton"),
        ("reference", CPU, True, "reference"),
        ("reference", GPU, True, "reference"),
        ("numba", CPU, True, "numba"),
        ("triton", GPU, True, "triton"),
    ],
)
def test_a_choice_is_logged_once_and_without_a_warning(asked, tensor, has_triton, chosen, triton_is, caplog):
    triton_is(has_triton)
    assert [choose_path(asked, tensor), choose_path(asked, tensor)] == [chosen, chosen]
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("INFO", f"selective scan on {tensor.device.type}: {chosen} path")]


@pytest.mark.parametrize(("tensor", "hint"), [(GPU, "pip install triton"), (OTHER, "no fast path")])
def test_the_slow_reference_is_taken_with_a_warning_alone(tensor, hint, triton_is, caplog):
    triton_is(False)
    assert [choose_path("auto", tensor), choose_path("auto", tensor)] == ["reference", "reference"]
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert hint in warning.getMessage()


@pytest.mark.parametrize(
    ("asked", "tensor", "has_triton", "problem"),
    [
        ("numba", GPU, True, "needs CPU tensors, got cuda"),
        ("numba", OTHER, True, "needs CPU tensors, got meta"),
        ("triton", CPU, True, "needs CUDA tensors, got cpu"),
        ("triton", GPU, False, "pip install triton"),
    ],
)
def test_a_path_that_cannot_run_is_an_error_and_not_another_path(asked, tensor, has_triton, problem, triton_is, caplog):
    triton_is(has_triton)
    with pytest.raises(EnvironmentProblem, match=problem):
        choose_path(asked, tensor)
    assert not caplog.records


def test_an_unknown_path_is_an_error_that_names_the_nearest():
    with pytest.raises(SpecError, match="Did you mean triton"):
        choose_path("tritom", CPU)


def test_the_interpreter_may_run_the_triton_path_on_a_cpu(monkeypatch, triton_is):
    triton_is(True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_path("triton", CPU) == "triton"


def test_the_scan_itself_takes_the_path_it_is_told(caplog):
    ones = torch.ones(1, 1, 3)
    for path in ("reference", "numba"):
        selective_scan(ones, ones, -torch.ones(1, 1), ones, ones, path=path)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["reference path", "numba path"]
