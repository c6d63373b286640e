"""Pools of workers do what is asked, also when a script without a main guard starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from eyeswap import processes
from eyeswap.processes import Terminated, Termination, leave_sigterm_to_parent, usable_cpus, worker_pool

SCRIPT = """
from math import factorial
from pathlib import Path
from eyeswap.processes import worker_pool

with Path("runs.txt").open("a") as stream:
    stream.write("run\\n")
with worker_pool(2) as workers:
    print(list(workers.map(factorial, range(5))))
"""


def test_a_script_without_a_main_guard_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    for command in ([sys.executable, "script.py"], [sys.executable, "-c", SCRIPT]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "[1, 1, 2, 6, 24]\n"), done.stderr
    assert (tmp_path / "runs.txt").read_text(encoding="utf-8") == "run\nrun\n"


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, eyeswap.processes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = "import os, time\nfrom eyeswap.processes import worker_pool\nwith worker_pool(2) as pool:\n"
    script += "    print(pool.submit(os.getpid).result(), flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = Path(f"/proc/{int(parent.stdout.readline())}")
        assert worker.exists()
        parent.kill()
    end = time.monotonic() + 10
    while worker.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not worker.exists()


def test_an_interrupt_does_not_wait_for_what_workers_do() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:  # noqa: PT012
        pool.submit(os.getpid).result()
        started = time.monotonic()
        pool.submit(time.sleep, 60)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("groups", "files", "quotas"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, [1.5]),
        ("0::/\n", {"cpu.max": "200000 100000"}, [2]),
        (
            "4:cpu,cpuacct:/x\n1:memory:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"},
            [0.5],
        ),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, []),
        ("0::/gone\n", {}, []),
    ],
)
def test_quotas_of_control_groups_are_read(
    tmp_path: Path, groups: str, files: dict[str, str], quotas: list[float]
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert list(processes._cpu_quotas(tmp_path / "groups", tmp_path / "cgroup")) == quotas


def test_the_smallest_of_affinity_and_quota_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for quotas, count in (([], 8), ([2.5, 16], 3), ([0.5], 1)):
        monkeypatch.setattr(processes, "_cpu_quotas", lambda _, quotas=quotas: iter(quotas))
        assert usable_cpus() == count


def test_sigterm_ends_work_at_once_or_at_its_safe_point() -> None:
    before = signal.getsignal(signal.SIGTERM)
    termination = Termination()
    try:
        termination.listen()
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        termination.listen()
        with termination.at_safe_points():
            signal.raise_signal(signal.SIGTERM)
            assert termination.requested
            with pytest.raises(Terminated):
                termination.end()
            with pytest.raises(Terminated):  # a second signal does not wait
                signal.raise_signal(signal.SIGTERM)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_work_that_reaches_no_safe_point_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Termination, "GRACE_S", 0.05)
    termination = Termination()
    try:
        termination.listen()
        with termination.at_safe_points():
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(Terminated):
                time.sleep(5)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_a_worker_of_a_loader_outlives_a_sigterm_to_the_whole_job() -> None:
    options = {"num_workers": 1, "prefetch_factor": 1, "worker_init_fn": leave_sigterm_to_parent}
    rows = iter(DataLoader(range(6), batch_size=None, **options))
    first = next(rows)
    os.kill(rows._workers[0].pid, signal.SIGTERM)
    assert [first, *rows] == list(range(6))


MEETING = """
import os, sys
from eyeswap.processes import join
with join("cpu") as ranks:
    drawn = [item for _, item in ranks.draw("abcdef")]
    everything = sorted(sum(ranks.gather(drawn), []))
    print(everything == list("abcdef"))
"""


@pytest.mark.extended
def test_a_new_try_of_the_same_processes_shares_nothing_with_the_last() -> None:
    """The store lives on between tries of torchrun, with the addresses and counters of processes that have ended."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for attempt in ("0", "1"):
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2",
            "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": attempt,
        }  # fmt: skip
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", MEETING], env=environment | {"RANK": rank}, stdout=subprocess.PIPE, text=True
            )
            for rank in ("0", "1")
        ]
        assert [process.communicate(timeout=120)[0].strip() for process in processes] == ["True", "True"]
