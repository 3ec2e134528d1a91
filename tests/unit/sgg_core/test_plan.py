"""What `auto` becomes, the learning rate of every step, and which examples each step sees."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sgg_core.plan import (
    BALANCED_BATCH_SIZE,
    BATCH_SIZE,
    CLIP_NORM,
    ENOUGH_SHOTS,
    LEARNING_RATE,
    LONGEST_REHEARSAL,
    STEPS,
    STEPS_OF_CONTRAST,
    make_plan,
    rehearsal_plan,
)
from sgg_core.spec import TrainingSpec

KINDS = ("causal", "encoder")
kinds = st.sampled_from(KINDS)
sizes = st.integers(2, 2000)
optimizations = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 50),
        "batch_size": st.integers(1, 256),
        "balanced_batches": st.booleans(),
        "learning_rate": st.floats(1e-6, 1.0),
        "learning_rate_multiplier": st.floats(0.01, 100.0),
        "warmup_fraction": st.floats(0.0, 0.5),
        "max_steps": st.integers(1, 500),
    },
)


def plan_of(examples, kind="causal", evaluation=None, checkpoint=None, labels=2, method="sgg", **optimization):
    groups = {"optimization": optimization, "evaluation": evaluation or {}, "checkpoint": checkpoint or {}}
    groups["method"] = method
    return make_plan(TrainingSpec.model_validate({"base_model": "tiny", **groups}), kind, examples, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_auto_depends_on_the_kind_of_base_model(kind):
    plan = plan_of(32, kind)
    size = BALANCED_BATCH_SIZE if kind == "encoder" else BATCH_SIZE
    assert (plan.balanced, plan.batch_size, plan.steps_per_epoch) == (True, size, 32 // size)
    assert (plan.learning_rate, plan.clip_norm) == (LEARNING_RATE[kind], CLIP_NORM[kind])
    assert plan.total_steps == plan.epochs * plan.steps_per_epoch
    assert plan.total_steps == (STEPS_OF_CONTRAST if plan.objective == "contrast" else STEPS[kind])


@given(sizes, kinds, st.integers(2, 20))
def test_steps_grow_with_the_square_root_of_the_examples_and_each_is_seen_twice_at_least(examples, kind, labels):
    plan = plan_of(examples, kind, labels=labels)
    of_32 = STEPS_OF_CONTRAST if plan.objective == "contrast" else STEPS[kind]
    wanted = of_32 * math.sqrt(examples / 32)
    assert plan.epochs >= 2
    assert plan.total_steps == plan.epochs * plan.steps_per_epoch
    assert abs(plan.total_steps - wanted) <= plan.steps_per_epoch / 2 or (
        plan.epochs == 2 and plan.total_steps > wanted
    )


@given(sizes, kinds, optimizations)
def test_what_is_asked_for_is_done_within_its_bounds(examples, kind, asked):
    plan = plan_of(examples, kind, **asked)
    small = not asked.get("balanced_batches", True) or (kind == "causal" and examples >= 2 * ENOUGH_SHOTS)
    usual = BATCH_SIZE if small else BALANCED_BATCH_SIZE
    assert plan.batch_size == min(asked.get("batch_size", usual), examples)
    assert plan.steps_per_epoch == -(-examples // plan.batch_size)
    if "epochs" in asked:
        assert plan.total_steps == min(asked["epochs"] * plan.steps_per_epoch, asked.get("max_steps", 10**9))
    assert 1 <= plan.total_steps <= asked.get("max_steps", 10**9)
    assert (plan.epochs - 1) * plan.steps_per_epoch < plan.total_steps <= plan.epochs * plan.steps_per_epoch
    rate = asked.get("learning_rate", LEARNING_RATE[kind]) * asked.get("learning_rate_multiplier", 1.0)
    assert plan.learning_rate == pytest.approx(rate)
    assert plan.examples == examples


@given(sizes, kinds, optimizations)
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero_one_step_after_the_last(examples, kind, asked):
    plan = plan_of(examples, kind, **asked)
    steps = np.arange(1, plan.total_steps + 1)
    warm, peak = plan.warmup_steps, plan.learning_rate
    assert warm == (round(asked.get("warmup_fraction", 0.1) * plan.total_steps) if plan.total_steps > 1 else 0)
    corners, heights = [warm + 1, plan.total_steps + 1], [peak, 0.0]
    if warm:
        corners, heights = [0, warm, *corners], [0.0, peak, *heights]
    rates = [plan.learning_rate_at(step) for step in steps.tolist()]
    assert rates == pytest.approx(np.interp(steps, corners, heights), rel=1e-9)
    assert all(0.0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert max(rates) == pytest.approx(peak)


def test_a_run_of_one_step_takes_it_at_the_full_learning_rate():
    plan = plan_of(8, max_steps=1, warmup_fraction=0.5, learning_rate=0.25)
    assert plan.learning_rate_at(1) == 0.25


def test_a_schedule_written_out_by_hand():
    plan = plan_of(8, epochs=10, learning_rate=1.0, warmup_fraction=0.2)
    rates = [plan.learning_rate_at(step) for step in range(1, 11)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


@given(st.integers(2, 200), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_every_epoch_sees_every_example_once_in_full_batches_but_the_last(examples, batch_size, seed):
    plan = plan_of(examples, batch_size=batch_size, epochs=3)
    batches = [plan.batch(step, seed) for step in range(1, plan.total_steps + 1)]
    per_epoch = plan.steps_per_epoch
    for epoch in range(3):
        own = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(index for batch in own for index in batch) == list(range(examples))
        assert {len(batch) for batch in own[:-1]} <= {plan.batch_size}
        assert 1 <= len(own[-1]) <= plan.batch_size


def test_a_batch_is_a_function_of_step_and_seed_so_a_resumed_run_sees_the_same():
    plan = plan_of(40, epochs=3)
    batches = [plan.batch(step, 1) for step in range(1, 16)]
    assert [plan.batch(step, 1) for step in reversed(range(1, 16))] == batches[::-1]
    assert replace(plan, total_steps=7).batch(7, 1) == batches[6]
    assert batches[:5] != batches[5:10] and plan.batch(1, 2) != batches[0]


@pytest.mark.parametrize(
    ("kind", "method", "labels", "balanced"),
    [
        ("causal", "sgg", 2, True),
        ("causal", "sgg", 8, True),
        ("causal", "sgg", 9, False),
        ("causal", "sgg", 0, False),  # texts
        ("causal", "supervised", 2, False),
        ("encoder", "sgg", 8, True),
        ("encoder", "sgg", 9, False),
        ("encoder", "supervised", 2, False),
    ],
)
def test_batches_are_balanced_under_guidance_where_one_holds_two_of_each_label(kind, method, labels, balanced):
    plan = plan_of(64, kind, labels=labels, method=method)
    size = BATCH_SIZE if not balanced or (kind, labels) == ("causal", 2) else 16
    assert (plan.balanced, plan.batch_size) == (balanced, size)


@pytest.mark.parametrize(("labels", "size"), [(2, 8), (3, 9), (4, 8), (5, 10), (6, 12), (8, 16)])
def test_balanced_batches_of_many_examples_hold_two_of_each_label_and_eight_in_all(labels, size):
    plan = plan_of(16 * labels, labels=labels)
    assert (plan.balanced, plan.batch_size) == (True, size)
    assert plan_of(16 * labels - 1, labels=labels).batch_size == BALANCED_BATCH_SIZE
    encoder = plan_of(16 * labels, "encoder", labels=labels, method="supervised", balanced_batches=True)
    assert (encoder.objective, encoder.batch_size) == ("cross_entropy", BALANCED_BATCH_SIZE)
    drawn = Counter(n % labels for n in plan.indices(1, 0, [n % labels for n in range(16 * labels)]))
    assert set(drawn.values()) == {size // labels}


@given(kinds, st.sampled_from(["sgg", "supervised"]), st.integers(2, 8), st.integers(2, 9), st.booleans())
def test_balanced_batches_hold_as_many_of_each_label_and_others_follow_the_epoch(kind, method, labels, shots, balanced):
    plan = plan_of(labels * shots, kind, labels=labels, method=method, balanced_batches=balanced)
    own = [index % labels for index in range(labels * shots)]
    for step in range(1, plan.total_steps + 1):
        batch = plan.indices(step, 3, own)
        counts = Counter(own[index] for index in batch)
        assert len(set(batch)) == len(batch)
        if balanced:
            assert set(counts) == set(range(labels)) and len(set(counts.values())) == 1
        else:
            assert batch == plan.batch(step, 3)


@pytest.mark.parametrize(("size", "balanced"), [(1, False), (7, False), (8, True)])
def test_batches_that_are_asked_for_keep_their_size_and_are_balanced_where_they_hold_two_of_each(size, balanced):
    plan = plan_of(64, labels=4, batch_size=size)
    labels = [index % 4 for index in range(64)]
    assert (plan.balanced, len(plan.indices(1, 0, labels))) == (balanced, size)
    asked = plan_of(64, labels=4, batch_size=size, balanced_batches=True)
    assert asked.balanced
    assert len({labels[index] for index in asked.indices(1, 0, labels)}) == min(size, 4)
    assert len(asked.indices(1, 0, labels)) == (size if size < 4 else size // 4 * 4)


def test_an_encoder_without_balanced_batches_compares_nothing():
    assert plan_of(32, "encoder", balanced_batches=False).objective == "cross_entropy"


@given(sizes, kinds)
def test_auto_evaluates_at_least_four_times_in_longer_runs_and_always_at_the_end(examples, kind):
    plan = plan_of(examples, kind)
    assume(plan.total_steps >= 8)
    at = [step for step in range(1, plan.total_steps + 1) if plan.evaluates_at(step)]
    assert (3 if plan.total_steps == 9 else 4) <= len(at) <= 5  # after 3, 6 and 9, or else after every second step
    assert at[-1] == plan.total_steps


@given(sizes, kinds)
def test_auto_saves_at_each_evaluation_at_least_every_fifty_steps_and_at_the_end(examples, kind):
    plan = plan_of(examples, kind)
    at, looks = (
        [step for step in range(1, plan.total_steps + 1) if does(step)] for does in (plan.saves_at, plan.evaluates_at)
    )
    assert at[-1] == plan.total_steps
    assert max(np.diff([0, *at])) <= 50
    assert set(looks) <= set(at)
    if plan.evaluate_every <= 50:
        assert at == looks


@pytest.mark.parametrize(("looks", "saves"), [(7, 7), (50, 50), (60, 30), (100, 50), (61, 50), (94, 47), (106, 50)])
def test_auto_saves_meet_the_evaluations_that_are_asked_for_where_a_number_divides_their_distance(looks, saves):
    assert plan_of(2000, evaluation={"every_steps": looks}).checkpoint_every == saves


def test_intervals_that_are_asked_for_are_kept_and_the_last_step_is_always_among_them():
    plan = plan_of(8, epochs=10, evaluation={"every_steps": 4}, checkpoint={"every_steps": 3})
    assert [step for step in range(1, 11) if plan.evaluates_at(step)] == [4, 8, 10]
    assert [step for step in range(1, 11) if plan.saves_at(step)] == [3, 6, 9, 10]


def test_clipping_can_be_set_or_turned_off():
    assert plan_of(8, clip_norm=0.5).clip_norm == 0.5
    assert plan_of(8, clip_norm=None).clip_norm is None


@pytest.mark.parametrize(("own", "others"), [(10, 2), (2, 10), (2, 2), (10, 10)])
def test_a_rehearsal_is_no_longer_than_a_few_runs_on_what_it_is_trained_on_itself(own, others):
    spec = TrainingSpec.model_validate({"base_model": "tiny"})
    run = make_plan(spec, "encoder", 80, own)
    rehearsal = rehearsal_plan(spec, "encoder", run, 100_000, others)
    assert rehearsal.objective == ("contrast" if others == 2 else "cross_entropy")
    as_long = LONGEST_REHEARSAL * make_plan(spec, "encoder", 80, others).total_steps
    assert rehearsal.total_steps == pytest.approx(as_long, rel=0.1)  # runs are of whole epochs
