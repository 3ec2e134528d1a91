"""What the trainer says of its GPU is shown, and no longer than there is a trainer."""

from prometheus_client import REGISTRY

from worker.instruments import measure_gpu
from worker.messages import Alive, GpuMemory, Said, trainer_message_adapter


def shown(kind: str) -> float | None:
    return REGISTRY.get_sample_value("sgg_trainer_gpu_memory_bytes", {"kind": kind})


def test_gpu_memory_comes_over_the_pipe_and_goes_with_the_trainer() -> None:
    alive = Alive(gpu_memory=GpuMemory(allocated=1, reserved=2, used=3, total=4), peak_bytes=5)
    heard = trainer_message_adapter.validate_json(Said(run=1, message=alive).model_dump_json())
    assert isinstance(heard, Said) and isinstance(heard.message, Alive)
    measure_gpu(heard.message.gpu_memory)
    assert [shown(kind) for kind in ("allocated", "reserved", "used", "total")] == [1, 2, 3, 4]
    measure_gpu(None)
    assert shown("used") is None
