"""What a measurement ran on. Loads no torch."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

LIBRARIES = ("torch", "transformers", "peft")


class Machine(BaseModel):
    """A machine and what is installed on it; None or missing where it does not tell."""

    type: Literal["machine"] = "machine"
    processor: str
    cores: int
    memory_bytes: int | None
    gpus: tuple[str, ...]
    system: str
    python: str
    libraries: dict[str, str]

    def in_words(self) -> str:
        """One sentence."""
        memory = f", {self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes else ""
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ", no GPU"
        libraries = ", ".join(f"{name} {number}" for name, number in self.libraries.items())
        return (
            f"{self.cores} cores of {self.processor}{memory}{gpus}; {self.system}, Python {self.python}, {libraries}."
        )


def this_machine() -> Machine:
    """Describe the machine of this process: the cores are those that it may use."""
    return Machine(
        processor=_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory(),
        gpus=tuple(sorted(_gpus())),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        libraries={name: number for name in LIBRARIES if (number := _version(name))},
    )


def _field(path: str, name: str) -> str | None:
    """The value of the first line `name: value` of one of the kernel's files."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)


def _memory() -> int | None:
    total = _field("/proc/meminfo", "MemTotal")
    return int(total.split()[0]) * 1024 if total else None


def _gpus() -> list[str]:
    found = Path("/proc/driver/nvidia/gpus").glob("*/information")
    return [name for path in found if (name := _field(str(path), "Model"))]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
