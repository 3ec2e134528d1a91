"""This machine: Python and packages, disk, memory, GPU. Loads no torch: what needs it runs in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from cli.checkup.finding import Finding

GIB = 2**30
TRAINING = ("torch", "transformers", "peft", "safetensors", "gguf", "matplotlib")
ASK_TORCH = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
ASK_CPU = """
import torch
from sgg_core.halves import wanted_halves
print("bfloat16" if wanted_halves(torch.device("cpu")) else "float32")
"""
CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_tile"}  # what sgg_core.halves asks torch for
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def check_python() -> Iterator[Finding]:
    """Python's version, the packages that the service needs, and those that training needs."""
    yield Finding("python", "ok", f"Python {platform.python_version()} at {sys.executable}.")
    needed = [_NAME.match(line) for line in requires("sgg") or [] if "extra ==" not in line]
    missing = [name[0] for name in needed if name is not None and _version(name[0]) is None]
    if missing:
        remedy = "Run `make install`, or `pip install .`, in the checkout again."
        yield Finding("packages", "problem", f"Missing: {', '.join(missing)}.", remedy)
    else:
        yield Finding("packages", "ok", f"sgg {version('sgg')} with all packages that the service needs.")
    absent = [name for name in TRAINING if importlib.util.find_spec(name) is None]
    if absent:
        message = f"This environment serves but cannot train: {', '.join(absent)} missing."
        yield Finding("training", "note", message, "To train here, run `pip install '.[train]'` from a checkout.")
    else:
        yield Finding("training", "ok", f"torch {_version('torch')}, transformers {_version('transformers')}.")


def check_disk(data_dir: Path) -> Iterator[Finding]:
    """Free space where the service keeps and caches things."""
    free = shutil.disk_usage(_existing(data_dir)).free
    message = f"{free / GIB:.1f} GiB are free for {data_dir}."
    if free < GIB:
        yield Finding("disk", "problem", message, "Free space, or move the data directory: jobs will fail soon.")
    else:
        yield Finding("disk", "ok" if free > 5 * GIB else "note", message)


def check_memory() -> Iterator[Finding]:
    """Memory that a trainer could take, within the limit of the container if there is one."""
    available = _available_memory()
    if available is None:
        yield Finding("memory", "note", "This system does not report how much memory is available.")
    elif available < GIB:
        remedy = "Stop other programs or raise the container's limit: the smallest base model needs about 1 GiB."
        yield Finding("memory", "problem", f"{available / GIB:.1f} GiB of memory are available.", remedy)
    else:
        yield Finding("memory", "ok", f"{available / GIB:.1f} GiB of memory are available.")


def precision(cpu_info: Path = CPU_INFO) -> str | None:
    """What sgg_core.halves decides; None where it refuses the variable, which is told as a problem of settings.

    Torch, whose import takes seconds, is asked only where the system does not tell.
    """
    wanted = os.environ.get("SGG_CPU_PRECISION") or "auto"
    if wanted != "auto":
        return "float32" if wanted == "float32" else None
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return _output([sys.executable, "-c", ASK_CPU]) or "float32"
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return "float32" if BFLOAT16_FLAGS.isdisjoint(flags) else "bfloat16"


def check_gpu() -> Iterator[Finding]:
    """Whether there is a GPU, and whether torch can use it."""
    driver = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    if not driver:
        known = precision()
        products = f", products with frozen weights in {known}" if known else ""
        yield Finding("gpu", "note", f"There is no NVIDIA GPU; training runs on the CPU{products}.")
        return
    if importlib.util.find_spec("torch") is None:
        yield Finding("gpu", "note", f"{driver.splitlines()[0]} is here, but no packages that train.")
        return
    used = _output([sys.executable, "-c", ASK_TORCH])
    if used:
        yield Finding("gpu", "ok", f"torch trains on {used.splitlines()[-1]}.")
    else:
        remedy = "Install a torch with CUDA (`pip install torch` without an index for CPUs), or update the driver."
        yield Finding("gpu", "problem", f"{driver.splitlines()[0]} is here, but torch cannot use it.", remedy)


def _version(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _available_memory() -> int | None:
    """Bytes, the lesser of what the system has and what the container may still take."""
    bounds = []
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        bounds.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):
        cgroup = Path("/sys/fs/cgroup")
        limit = int((cgroup / "memory.max").read_text())
        bounds.append(limit - int((cgroup / "memory.current").read_text()))
    return min(bounds, default=None)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
