"""Log-z clipping against a naive second implementation."""

import math
import random

import pytest

from sgg_core.guidance.magnitude import LogNormClip, coefficients


def naive_scales(norms, z, beta=0.9, warm_up=6, min_std=0.1):
    """The same rule with the weight of every past log-norm written out."""
    seen, scales = [], []
    for norm in norms:
        scale = 1.0
        if len(seen) >= warm_up:
            weights = []
            for count in range(1, len(seen) + 1):
                share = max(1 - beta, 1 / count)
                weights = [weight * (1 - share) for weight in weights] + [share]
            mean = sum(weight * value for weight, value in zip(weights, seen, strict=True))
            variance = sum(weight * (value - mean) ** 2 for weight, value in zip(weights, seen, strict=True))
            limit = math.exp(mean + z * max(min_std, math.sqrt(variance)))
            scale = min(1.0, limit / norm)
        seen.append(math.log(norm * scale))
        scales.append(scale)
    return scales


@pytest.mark.parametrize("z", [0.5, 2.5])
def test_equals_the_naive_implementation(z):
    draw = random.Random(3)
    norms = [math.exp(draw.gauss(-0.05 * step, 0.5)) for step in range(60)]
    norms[20] *= 50
    clip = LogNormClip(z)
    ours = [clip.scale(norm) for norm in norms]
    assert ours == pytest.approx(naive_scales(norms, z), rel=1e-9)
    assert ours[20] < 0.2


def test_acts_on_an_outlier_and_not_on_steady_norms():
    clip = LogNormClip(2.5)
    assert all(clip.scale(0.2 + 0.001 * (step % 3)) == 1.0 for step in range(20))
    scale = clip.scale(20.0)
    assert 0.2 < 20.0 * scale < 0.3
    assert clip.scale(0.2) == 1.0


def test_an_outlier_does_not_open_the_door_for_the_next_one():
    clip = LogNormClip(2.5)
    for _ in range(20):
        clip.scale(1.0)
    assert [clip.scale(1000.0) < 0.01 for _ in range(3)] == [True] * 3


def test_steps_without_a_gradient_do_not_open_the_door():
    steady, broken = LogNormClip(2.5), LogNormClip(2.5)
    for step in range(20):
        steady.scale(1.0)
        broken.scale(1.0)
        if step % 4 == 3:
            assert broken.scale(0.0) == broken.scale(1e-15) == 1.0
    assert broken.threshold() == steady.threshold()
    assert broken.scale(100.0) < 0.02


def test_nothing_is_clipped_while_there_are_too_few_steps():
    clip = LogNormClip(0.1)
    assert [clip.scale(norm) for norm in (1.0, 100.0, 1.0, 1e4, 1.0, 1e6)] == [1.0] * 6
    assert clip.scale(1e9) < 1.0


def test_falling_norms_are_normal_however_small():
    clip = LogNormClip(2.5)
    assert all(clip.scale(10.0 ** (-step)) == 1.0 for step in range(30))
    assert clip.scale(0.0) == 1.0


def test_the_coefficient_is_the_strength_above_the_threshold_and_nothing_up_to_it():
    assert coefficients(0.7, gradient_norm=2.0, threshold=0.0) == 0.7
    assert [coefficients(0.7, gradient_norm, 1.5) for gradient_norm in (1.4, 1.5, 1.6)] == [0.0, 0.0, 0.7]
