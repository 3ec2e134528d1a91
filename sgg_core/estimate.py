"""What a run will cost, told before it: time and memory from what it has to compute. Loads no torch.

Seconds are those of a reference: one thread of the machine in docs/results/forecast.md. Where jobs were seen, the
pace of their steps and what they took besides correct them (sgg_store.durations).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sgg_core.reporting import MemoryNeed, Message, ReferenceSeconds

FLOATS, HALVES = 4, 2  # bytes of a float32, of a bfloat16
# Fitted to measured jobs, see benchmarks/forecast.py. Floating-point operations per second in passes, and seconds.
GRADIENT_RATE = {"causal": 3.1e10, "encoder": 3.2e10}
PASS_RATE = {"causal": 3.8e10, "encoder": 4.4e10}  # of passes without a gradient
RUN_SECONDS = {"causal": 11.5, "encoder": 6.0}  # fetching, writing the adapter, verifying and publishing it
STEP_SECONDS = {"causal": 0.02, "encoder": 0.01}
CHECKPOINT_SECONDS = 0.5
SECONDS_PER_WEIGHT = 2e-9  # of the adapter, in each step: copies, norms, the optimizer
# Fitted to measured peaks: the process itself, and floats that stay until the backward pass, per position and layer.
PROCESS_BYTES = 600 * 2**20
FLOATS_PER_POSITION = {"causal": 34, "encoder": 34}  # times the width, in each layer
COPIES_OF_ADAPTER = 9


class Workload(Message):
    """What a run computes, and how often. A position is a token in a forward pass, after packing or padding."""

    kind: Annotated[str, Field(pattern="causal|encoder")]
    weights: int
    """Of the base model without its embeddings: each takes part in each position."""
    stored_weights: int
    """Of the base model, all of them."""
    halved_weights: int = 0
    """Of the base model, those of which there may be a copy in bfloat16, too."""
    width: int
    layers: int
    vocabulary: int
    """Outputs of the last layer that are computed for a trained token; 0 for an encoder."""
    adapter_weights: int
    replicas: int = 1
    """How often all of this is done; the figures here are those of one time."""
    tried: tuple[Workload, ...] = ()
    """Those of the runs on a part of the examples, one for each fold."""
    steps: int
    rival_steps: int = 0
    """Of plain LoRA, trained after the adapter to compare with: one gradient of the target and no sources each."""
    rival_positions: float = 0.0
    """Of one such gradient of the rival's, whose batches may be others."""
    gradients: float
    """How many gradients of the target a step takes."""
    positions: float
    """Of one such gradient."""
    trained: float
    """Trained tokens of one such gradient, if the loss is over the vocabulary."""
    source_positions: float = 0.0
    """Of all gradients of sources in a step."""
    rehearsal_positions: float = 0.0
    """Of gradients of sources before the first step, all together."""
    evaluations: int = 0
    evaluation_positions: int = 0
    """Of one evaluation."""
    evaluation_trained: int = 0
    examined_positions: int = 0
    """Of forward passes over the training examples, which look for wrong labels and fit an encoder's head."""
    in_context_positions: int = 0
    """Of the base model's answers with examples in its prompt."""
    in_context_prefix: int = 0
    """Tokens of that prompt, which each of these positions looks back at."""
    retention_positions: int = 0
    """Of both measurements of the retention file."""
    retention_trained: int = 0
    checkpoints: int = 0
    largest_pass: int
    """Positions of the largest forward pass that a gradient is taken of."""
    largest_trained: int = 0


def reference_seconds(load: Workload) -> ReferenceSeconds:
    """How long all runs take on the reference machine, from the claim to the end, with the base model loaded."""
    parts = [_seconds(each) for each in (load, *load.tried)]
    return ReferenceSeconds(
        steps=sum(each.steps for each in parts),
        passes=sum(each.passes for each in parts),
        fixed=RUN_SECONDS[load.kind] + sum(each.fixed for each in parts),
    )


def _seconds(load: Workload) -> ReferenceSeconds:
    """Of its replicas, without the runs on a part of the examples and what is paid once for all."""
    rate, pass_rate = GRADIENT_RATE[load.kind], PASS_RATE[load.kind]
    forward = 2.0 * load.weights
    gradient = 2.0 * forward  # no gradient of the frozen weights themselves
    output = 2.0 * load.vocabulary * load.width
    overhead = STEP_SECONDS[load.kind] + SECONDS_PER_WEIGHT * load.adapter_weights
    of_outputs = load.trained * 3 * output
    of_target = load.positions * gradient + of_outputs
    step = (load.gradients * of_target + load.source_positions * gradient) / rate + overhead
    rival = load.rival_steps * ((load.rival_positions * gradient + of_outputs) / rate + overhead)
    looking_back = 4.0 * load.in_context_prefix * load.width * load.layers
    rehearsal = load.rehearsal_positions * gradient / rate
    operations = load.evaluations * (load.evaluation_positions * forward + load.evaluation_trained * output)
    operations += load.examined_positions * forward + load.in_context_positions * (forward + looking_back)
    operations += load.retention_positions * forward + load.retention_trained * output
    return ReferenceSeconds(
        steps=load.replicas * load.steps * step,
        passes=load.replicas * (rival + rehearsal + operations / pass_rate),
        fixed=load.replicas * load.checkpoints * CHECKPOINT_SECONDS,
    )


def memory_need(load: Workload) -> MemoryNeed:
    """What the run holds of the training process's memory when that is most, with one replica at a time."""
    runs = (load, *load.tried)
    kept = FLOATS_PER_POSITION[load.kind] * max(each.largest_pass for each in runs) * load.width * load.layers
    outputs = 3 * min(max(each.largest_trained for each in runs), 512) * load.vocabulary
    return MemoryNeed(
        shared=PROCESS_BYTES + FLOATS * load.stored_weights + HALVES * load.halved_weights,
        adapter=FLOATS * COPIES_OF_ADAPTER * load.adapter_weights,
        passes=FLOATS * (kept + outputs),
    )
