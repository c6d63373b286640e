"""`eyeswap doctor`: what this machine has, which kernels it runs, and what is missing or broken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from eyeswap.cli.options import JsonOption

GIB = 2**30
EXTRAS = {
    "timm": "timm",
    "lora": "peft",
    "coco": "pycocotools",
    "slurm": "submitit",
    "track": "tensorboard",
    "demo": "gradio",
    "notebook": "nbclient",
    "docs": "mkdocs-material",
    "dev": "pytest",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: devices, kernels, memory and packages, with a remedy for each problem."""
    if as_json:
        typer.echo(json.dumps(dict(findings()), indent=1, ensure_ascii=False))
        return
    for name, finding in findings():
        typer.echo(f"{name:<15}{finding}")


def findings() -> Iterator[tuple[str, str]]:
    """Yield ``(subject, finding)`` pairs."""
    import torch

    from eyeswap.files import free_bytes
    from eyeswap.runs.environment import cpu_model
    from eyeswap.versions import code_version, version_of

    python = ".".join(str(part) for part in sys.version_info[:3])
    yield (
        "eyeswap",
        f"{version_of('eyeswap')}, code {code_version()[:12]}, Python {python}, torch {torch.__version__}",
    )
    yield "processor", f"{cpu_model()}, torch uses {torch.get_num_threads()} threads"
    yield "GPU", _gpus()
    yield "memory", _memory()
    yield "disk", f"{free_bytes(Path.cwd()) / GIB:.1f} GiB free in this folder"
    yield "selective scan", _selective_scan()
    yield "C core of SS2D", _c_core()
    yield "torchvision", _torchvision()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    yield (
        "browser",
        browser or "no Chromium; only the tests of the report page need it (apt-get install chromium)",
    )
    yield "Slurm", shutil.which("srun") or "no srun; `eyeswap study run --launcher slurm` needs it"
    for extra, package in EXTRAS.items():
        version = version_of(package)
        yield f"extra {extra}", f"{package} {version}" if version else f"not installed (pip install 'eyeswap[{extra}]')"


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; everything runs on the CPU"
    names = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return ", ".join(f"{gpu.name} with {gpu.total_memory / GIB:.0f} GiB" for gpu in names)


def _memory() -> str:
    information = Path("/proc/meminfo")
    if not information.is_file():
        return "unknown on this system"
    sizes = dict(line.split(":", 1) for line in information.read_text(encoding="utf-8").splitlines())
    total, available = (int(sizes[key].split()[0]) * 1024 / GIB for key in ("MemTotal", "MemAvailable"))
    return f"{available:.1f} of {total:.1f} GiB free"


def _selective_scan() -> str:
    """Time a small scan with the implementation that a run on this machine would use."""
    import time

    import torch

    from eyeswap.ops.selective_scan import choose_path, selective_scan

    B, channels, S, L = 1, 128, 8, 196
    device = "cuda" if torch.cuda.is_available() else "cpu"
    noise = torch.Generator().manual_seed(0)
    u, delta = torch.randn(2, B, channels, L, generator=noise).to(device)
    A = -torch.rand(channels, S, generator=noise).to(device)
    B_in, C_out = torch.randn(2, B, S, L, generator=noise).to(device)
    times = []
    for _ in range(6):  # the first call may compile
        start = time.perf_counter()
        selective_scan(u, delta, A, B_in, C_out, softplus=True)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return (
        f"{choose_path('auto', u)} on {device}: {min(times[1:]) * 1e3:.2f} ms for {channels} channels, "
        f"{L} tokens, {S} states (first call {times[0]:.1f} s)"
    )


def _c_core() -> str:
    from eyeswap.ops._c_scan import why_missing

    reason = why_missing()
    return f"none ({reason}); numba runs instead, up to twice as slow" if reason else "compiled"


def _torchvision() -> str:
    """Import torchvision in a subprocess: one that cannot be imported breaks transformers too."""
    from eyeswap.versions import version_of

    version = version_of("torchvision")
    if version is None:
        return "not installed, as it should be (nothing here needs it)"
    code = "import eyeswap.torchvision_operators as operators, torchvision; print(len(operators.declared))"
    trial = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if trial.returncode:
        reason = (trial.stderr.strip().splitlines() or ["no message"])[-1]
        return f"BROKEN ({version}: {reason}); transformers will fail. Remedy: pip uninstall torchvision"
    if trial.stdout.strip() == "0":
        return f"{version}, can be imported"
    return f"{version}, its compiled library does not load; eyeswap and timm work without it"
