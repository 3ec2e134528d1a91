"""A run's summary metrics against numpy and against what they promise to be free of."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.gradients import cosine
from sgg_core.reporting import StepMetrics
from sgg_core.telemetry import direction, log_norm_changes, source_alignment, stability

norms = st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=40)


def steps_of(norms, **lists):
    return [
        StepMetrics(
            step=index + 1,
            total_steps=len(norms),
            epoch=0.0,
            train_loss=1.0,
            train_accuracy=0.5,
            learning_rate=1e-3,
            gradient_norm=norm,
            seconds=0.1,
            tokens=10,
            **{name: values[index] for name, values in lists.items()},
        )
        for index, norm in enumerate(norms)
    ]


@given(norms, st.integers(0, 3))
def test_stability_is_the_spread_of_the_log_norms_changes_after_the_warm_up(norms, warmup):
    found = stability(steps_of(norms), warmup)
    steady = norms[warmup:]
    changes = np.diff(np.log(steady))
    assert found.gradient_norm_mean == pytest.approx(np.mean(norms))
    if len(changes) > 1:
        assert found.log_norm_change_std == pytest.approx(np.std(changes), abs=1e-12)
    else:
        assert found.log_norm_change_std is None


@given(st.lists(st.sampled_from([0.0, 0.1, -0.1, 6.0]), min_size=12, max_size=40), st.sampled_from([1.0, 2.5]))
def test_abnormal_is_a_rise_beyond_z_deviations_from_the_mean_change(changes, z):
    norms = np.exp(np.cumsum([0.0, *changes]))
    found = stability(steps_of(norms.tolist()), 0, z)
    deviations = np.array(changes) - np.mean(changes)
    limit = z * np.std(changes)
    abnormal = sum(deviations > limit * (1 + 1e-9)) / len(changes)
    nearly = sum(deviations > limit * (1 - 1e-9)) / len(changes) if limit > 1e-9 else 0.0
    assert abnormal <= found.abnormal_share <= nearly


def test_one_jump_in_twenty_steps_is_abnormal():
    norms = [1.0 + 0.01 * (step % 2) for step in range(10)] + [40.0] * 10
    found = stability(steps_of(norms), 0)
    assert (found.abnormal_share, found.abnormal_steps) == (1 / 19, 1)


@given(norms, st.floats(1e-3, 1e3), st.floats(0.9, 2))  # above what counts as no gradient
def test_stability_does_not_see_the_gradients_scale_or_a_steady_trend(norms, scale, trend):
    before = stability(steps_of(norms), 0).log_norm_change_std
    changed = [scale * trend**step * norm for step, norm in enumerate(norms)]
    assert stability(steps_of(changed), 0).log_norm_change_std == pytest.approx(before, abs=1e-9)


def test_a_steady_trend_is_perfectly_stable():
    found = stability(steps_of([2.0**-step for step in range(10)]), 2)
    assert found.log_norm_change_std == pytest.approx(0.0, abs=1e-12)
    assert found.abnormal_share == 0.0


def test_clipping_is_counted_over_all_steps():
    steps = steps_of([1.0] * 8, clipped=[True, False, False, False, False, True, False, False])
    assert stability(steps, 4).clipped_share == 0.25


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_steps_have_no_spread(count):
    found = stability(steps_of([1.0, 2.0][:count]), 0)
    assert (found.log_norm_change_std, found.abnormal_share) == (None, 0.0)


def test_a_run_that_ends_within_its_warm_up_is_measured_over_all_its_steps():
    norms = [1.0, 3.0, 2.0, 5.0]
    assert stability(steps_of(norms), 10) == stability(steps_of(norms), 0)


def test_a_step_without_a_gradient_is_no_change():
    assert log_norm_changes([1.0, 0.0, 2.0, 1e-20, 1.0]) == pytest.approx([math.log(2), -math.log(2)])
    assert log_norm_changes([1.0]) == log_norm_changes([]) == []


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=1, max_size=20))
def test_path_efficiency_is_the_distance_over_the_length_of_the_way(moves):
    moves = np.array(moves)
    distance = float(np.linalg.norm(moves.sum(0)))
    length = float(np.linalg.norm(moves, axis=1).sum())
    found = direction(steps_of([1.0]), 4, distance, length).path_efficiency
    if length == 0.0:
        assert found is None
    else:
        assert found == pytest.approx(distance / length)
        assert 0.0 <= found <= 1.0


def test_rounding_makes_no_way_shorter_than_the_straight_one():
    assert direction(steps_of([1.0]), 4, 0.1 + 0.2, 0.3).path_efficiency == 1.0


def test_the_reference_cosine_is_averaged_over_the_steps_that_had_a_reference():
    steps = steps_of([1.0] * 4, reference_cosine=[None, None, 0.5, -0.25])
    assert direction(steps, 4, 1.0, 2.0).reference_cosine_mean == 0.125
    assert direction(steps[:2], 4, 1.0, 2.0).reference_cosine_mean is None


@given(st.lists(st.none() | st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_source_figures_are_over_the_steps_that_saw_a_source(seen):
    steps = steps_of(
        [1.0] * len(seen),
        source_cosine=[None if pair is None else pair[0] for pair in seen],
        source_weight=[None if pair is None else pair[1] for pair in seen],
    )
    found = source_alignment(steps, {})
    pairs = [pair for pair in seen if pair is not None]
    if not pairs:
        assert found is None
        return
    assert found.cosine_mean == pytest.approx(np.mean([cosine for cosine, _ in pairs]))
    assert found.weight_mean == pytest.approx(np.mean([weight for _, weight in pairs]))
    assert found.conflict_share == pytest.approx(np.mean([cosine < 0 for cosine, _ in pairs]))


@pytest.mark.parametrize("batch", [1, 4, 16, 64])
def test_cosines_of_independent_batches_average_what_the_law_says(batch):
    """SNR / (1 + SNR), for SNR = |E g|^2 / (tr Cov(g_i) / B).

    Gradients of single examples: a common signal, and noise of as many dimensions as there are parameters.
    """
    generator = np.random.default_rng(0)
    dimensions, signal = 4000, np.zeros(4000)
    signal[0] = 1.0
    deviation = 2.0 / dimensions**0.5  # of each coordinate: the trace of the covariance is 4

    def mean_gradient():
        mean = signal + deviation / batch**0.5 * generator.standard_normal(dimensions)
        return [torch.from_numpy(part) for part in np.split(mean, [1000, 1500])]

    cosines = [cosine(mean_gradient(), mean_gradient()) for _ in range(200)]
    signal_to_noise = 1.0 / (4.0 / batch)
    assert np.mean(cosines) == pytest.approx(signal_to_noise / (1.0 + signal_to_noise), abs=0.01)
