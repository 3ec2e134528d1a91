"""What a worker measures of its trainings, in Prometheus's form."""

from __future__ import annotations

from prometheus_client import Gauge, Histogram

from worker.messages import GpuMemory

STEP_SECONDS = Histogram(
    "sgg_step_seconds",
    "Duration of one optimizer step.",
    ["base_model"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
TRIAL_SECONDS = Histogram(
    "sgg_trial_seconds",
    "Time from taking a trial to its end, by what was asked and what became of it.",
    ["type", "outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
GPU_MEMORY = Gauge(
    "sgg_trainer_gpu_memory_bytes",
    "Memory of the trainer's GPU: in tensors (allocated), kept by the trainer (reserved), in use by all, and there is.",
    ["kind"],
)


def measure_gpu(memory: GpuMemory | None) -> None:
    """Show what the trainer said of its GPU; nothing is shown while there is no trainer or no GPU."""
    GPU_MEMORY.clear()
    if memory is not None:
        for kind, value in memory:
            GPU_MEMORY.labels(kind).set(value)
