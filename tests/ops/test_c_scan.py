"""The C core of the scans: as exact as the reference, whatever the sizes; and what happens where it cannot be had."""

import logging
import time
from functools import partial

import pytest
import ss2d_inputs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyeswap.errors import EnvironmentProblem
from eyeswap.ops import _c_scan, _numba_scan, _threads, ss2d, ss2d_reference
from eyeswap.ops.selective_scan import _log
from eyeswap.ops.ss2d import cross_scan_order

core = pytest.mark.skipif(bool(_c_scan.why_missing()), reason=f"no C core: {_c_scan.why_missing()}")


drawn = partial(ss2d_inputs.drawn, dtype=torch.float32, spread=0.3)


def error(got, inputs):
    want = ss2d_reference(*(tensor.double() for tensor in inputs))
    return float((got.double() - want).norm() / want.norm())


@core
@settings(max_examples=40, deadline=None)
@given(st.tuples(*(st.integers(1, bound) for bound in (3, 9, 9, 130, 7, 4))))
def test_any_sizes_agree_with_the_reference(sizes):
    inputs = drawn(*sizes)
    assert error(ss2d(*inputs, path="c"), inputs) < 2e-6


@core
@pytest.mark.parametrize(("height", "width"), [(14, 14), (5, 9), (1, 7), (8, 1), (50, 84)])
@pytest.mark.parametrize("D", [32, 96, 128, 192])
def test_official_shapes_agree_with_the_reference(height, width, D):
    inputs = drawn(2, height, width, D, D // 16)
    assert error(ss2d(*inputs, path="c"), inputs) < 2e-6


@core
def test_maps_that_are_not_contiguous_are_read_right():
    x, *weights = drawn(2, 6, 4, 48, 3)
    turned = x.transpose(1, 2)
    assert torch.equal(ss2d(turned, *weights, path="c"), ss2d(turned.contiguous(), *weights, path="c"))


@core
@pytest.mark.parametrize("bias", [-60.0, 8.0, 60.0, 200.0])
def test_extreme_step_sizes_stay_finite_and_exact(bias):
    inputs = drawn(1, 7, 5, 32, 2)
    inputs[3] = inputs[3] + bias
    assert error(ss2d(*inputs, path="c"), inputs) < 2e-6


@core
def test_what_is_not_a_number_stays_in_its_channel():
    x, x_proj, dt, bias, a, skip = drawn(1, 4, 4, 32, 2)
    x_proj[:, :, 5] = 0  # channel 5 does not reach the others through the projections
    got = ss2d(x, x_proj, dt, bias.index_fill(1, torch.tensor([5]), torch.nan), a, skip, path="c")
    assert got[..., 5].isnan().all()
    assert got[..., torch.arange(32) != 5].isfinite().all()


@core
def test_threads_do_not_change_a_single_bit():
    inputs, threads, results = scan_inputs(drawn(5, 7, 5, 96, 6)), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(_c_scan.scan_c(*inputs, None))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@core
def test_an_image_gives_the_same_bits_whatever_its_batch():
    x, projected, *weights = scan_inputs(drawn(4, 7, 5, 96, 6))
    alone = [_c_scan.scan_c(x[image, None], projected[image, None], *weights, None) for image in range(4)]
    assert torch.equal(torch.cat(alone), _c_scan.scan_c(x, projected, *weights, None))


def scan_inputs(inputs):
    """Return what `scan_c` takes for these inputs, with projections of their own."""
    x, x_proj, dt, bias, a, skip = inputs
    height, width, D = x.shape[1:]
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(len(x), height * width, *x_proj.shape[:2], generator=generator)
    a, order = -a.exp().view(4, D, -1).transpose(1, 2), cross_scan_order(height, width)
    return x.flatten(1, 2)[:, None], projected, dt, bias, a, skip.view(4, D).sum(0, keepdim=True), order


@core
@pytest.mark.parametrize("path", ["c", "numba"])
def test_two_threads_halve_the_work_and_work_at_the_same_time(path, monkeypatch):
    """Processor time and overlap, not time on the clock: other work on the machine must not fail this."""
    inputs, threads = drawn(4, 28, 28, 96, 6), torch.get_num_threads()
    share_out, longest, together = _threads.share_out, {1: 9e9, 2: 9e9}, []

    def watched(function, tasks):
        spans = []

        def timed(first, stop):
            begun, used = time.perf_counter(), time.thread_time()
            function(first, stop)
            spans.append((begun, time.perf_counter(), time.thread_time() - used))

        share_out(timed, tasks)
        longest[len(spans)] = min(longest[len(spans)], max(span[2] for span in spans))
        together.append(len(spans) == 2 and max(span[0] for span in spans) < min(span[1] for span in spans))

    module = _c_scan if path == "c" else _numba_scan
    monkeypatch.setattr(module, "share_out", watched)
    monkeypatch.setattr(_c_scan, "_run_on_torchs_threads", lambda *job: False)  # as where torch has another OpenMP
    try:
        for _ in range(40):  # on a busy machine some calls are held up
            for count in (1, 2):
                torch.set_num_threads(count)
                ss2d(*inputs, path=path)
            if longest[2] < 0.7 * longest[1] and any(together):
                return
    finally:
        torch.set_num_threads(threads)
    pytest.fail(f"longest share of the work by threads, s: {longest}; at the same time: {any(together)}")


@core
def test_torchs_threads_share_the_work_with_the_same_bits():
    """Where torch has another OpenMP than GNU's, so do those of our own pool."""
    inputs, threads, results, used = scan_inputs(drawn(4, 28, 28, 96, 6)), torch.get_num_threads(), {}, {1: 9e9, 2: 9e9}
    try:
        for _ in range(40):  # on a busy machine some calls are held up
            for count in (1, 2):
                torch.set_num_threads(count)
                begun = time.thread_time()
                results[count] = _c_scan.scan_c(*inputs, None)
                used[count] = min(used[count], time.thread_time() - begun)
            assert torch.equal(results[1], results[2])
            if used[2] < 0.7 * used[1]:
                return
    finally:
        torch.set_num_threads(threads)
    pytest.fail(f"processor time of the calling thread by threads, s: {used}")


@core
def test_gradients_and_float64_go_to_numba():
    inputs = drawn(1, 4, 4, 32, 2)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    assert ss2d(*leaves).requires_grad
    assert error(ss2d(*(tensor.double() for tensor in inputs)), inputs) < 1e-12
    with pytest.raises(EnvironmentProblem, match="no backward"):
        ss2d(*leaves, path="c")
    with pytest.raises(EnvironmentProblem, match="float32"):
        ss2d(*(tensor.double() for tensor in inputs), path="c")


@pytest.fixture
def afresh(tmp_path, monkeypatch):
    """An empty cache, and a library that is looked for anew."""
    monkeypatch.setenv("EYESWAP_CACHE", str(tmp_path))
    _c_scan.library.cache_clear()
    _log.cache_clear()
    yield tmp_path
    _c_scan.library.cache_clear()


@core
def test_it_is_compiled_once_into_the_cache(afresh):
    assert not _c_scan.why_missing()
    (file,) = (afresh / "kernels").glob("*.so")
    made = file.stat().st_mtime_ns
    _c_scan.library.cache_clear()
    assert not _c_scan.why_missing()
    assert file.stat().st_mtime_ns == made


@pytest.mark.extended
@core
def test_a_library_that_was_cut_off_is_made_again(afresh):
    assert not _c_scan.why_missing()
    (file,) = (afresh / "kernels").glob("*.so")
    whole = file.read_bytes()
    file.unlink()  # not cut in place: this process has it open
    file.write_bytes(whole[:4096])
    _c_scan.library.cache_clear()
    assert not _c_scan.why_missing()
    assert len(file.read_bytes()) == len(whole)


NO_HOME = {"HOME": None, "EYESWAP_CACHE": None}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"EYESWAP_C": "0"}, "EYESWAP_C is 0"),
        ({"CC": "no-such-compiler"}, "no C compiler (no-such-compiler) here"),
        ({"CC": "false"}, "could not be compiled"),
        ({"CC": "true"}, "could not be compiled"),  # says yes and writes nothing
        ({"CC": "'cc"}, "No closing quotation"),
        ({"EYESWAP_CACHE": "/dev/null/below"}, "could not be compiled"),
        (NO_HOME, "could not be compiled"),
    ],
)
def test_without_it_numba_runs_and_one_note_says_why(afresh, monkeypatch, caplog, variables, told):
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    if variables is NO_HOME:
        monkeypatch.setattr("pwd.getpwuid", nobody)
    inputs = drawn(1, 4, 4, 32, 2)
    with caplog.at_level(logging.INFO, logger="eyeswap.ops.selective_scan"):
        results = [ss2d(*inputs) for _ in range(2)]
    assert error(results[0], inputs) < 2e-6
    lines = [record.getMessage() for record in caplog.records]
    assert [told in line for line in lines] == [True, False]
    assert "\n" not in lines[0]
    assert lines[1] == "selective scan on cpu: numba path"
    with pytest.raises(EnvironmentProblem, match="path c cannot run"):
        ss2d(*inputs, path="c")
    assert not (afresh / "kernels").exists() or not list((afresh / "kernels").glob("*.so"))


def nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")


@core
def test_a_blank_name_of_a_compiler_means_cc(afresh, monkeypatch):
    monkeypatch.setenv("CC", " ")
    assert not _c_scan.why_missing()
