"""A Slurm cluster of one node on the loopback interface: munged, slurmctld and slurmd, with all files in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
NUM_CPUS = 4  # that the node claims to have: enough for two jobs of two processes, whatever the machine has
_GPUS = ("/dev/null", "/dev/zero")  # that it claims to have: jobs ask for them, and compute nothing on them
MOST_MINUTES = 60  # of a job in any partition
_PATIENCE_S = 60

# The partition `urgent` preempts jobs of `normal`. A job that is queued again may start after cred_expire seconds.
_CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=1,sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
SlurmdTimeout=15
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=normal Nodes={host} Default=YES MaxTime={minutes} PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes={host} MaxTime={minutes} PriorityTier=2 PreemptMode=OFF
"""


def why_not() -> str:
    """Return why no cluster can be started here; empty if one can."""
    if os.getuid() != 0:
        return "Slurm's daemons need root"
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (Debian: munge, slurmctld, slurmd, slurm-client)" if missing else ""


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Run the cluster for the duration of the block; Slurm's commands find it through the environment."""
    host = socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(
            host=host, folder=folder, ports=_free_ports(2), cpus=NUM_CPUS, gpus=len(_GPUS), minutes=MOST_MINUTES
        )
    )
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={path}\n" for path in _GPUS))
    with ExitStack() as daemons:
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        daemons.callback(os.environ.pop, "SLURM_CONF")
        munge = {name: f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("pid-file", "log-file")}
        daemons.enter_context(
            _daemon(
                folder,
                *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"),
                *(*munge.values(), f"--seed-file={folder}/munge.seed"),
            )
        )
        _wait_until(lambda: (folder / "munge.socket").exists(), folder)
        daemons.enter_context(_daemon(folder, "slurmctld", "-D"))
        daemons.enter_context(_daemon(folder, "slurmd", "-D", "-N", host))
        _wait_until(lambda: "idle" in slurm("sinfo", "--noheader", "--format=%T", check=False), folder)
        try:
            yield
        finally:
            slurm("scancel", "--user=root")
            _wait_until(lambda: not slurm("squeue", "--noheader"), folder)


def slurm(*command: str, check: bool = True) -> str:
    """Run a command of Slurm; return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def _daemon(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


def _wait_until(is_so: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not is_so():
        if time.monotonic() > end:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.out")))
            raise RuntimeError(f"the cluster does not start, or does not end its jobs:\n{logs}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        bound = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in bound]
