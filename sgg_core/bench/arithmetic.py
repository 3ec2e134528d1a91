"""What a device could compute at most."""

from __future__ import annotations

import time

import torch

SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices that tell the rate


def matmul_rate(device: torch.device, tries: int = 3) -> float:
    """Floating-point operations a second of a large matrix product in the precision that passes have on the device:
    float32 on a CPU, bfloat16 on a GPU. The best of some tries."""
    side = SIDE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(tries + 1):  # the first one warms up
        begun = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - begun))
    return best
