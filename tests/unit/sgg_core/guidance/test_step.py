"""The guided step's passes: restored weights, equal randomness, and the documented formula on a small float64 task."""

import pytest
import torch
from torch.nn import Parameter, functional

from sgg_core import encoding
from sgg_core.backbone import LoadedBase
from sgg_core.encoding import Encoded
from sgg_core.errors import TrainingDivergedError
from sgg_core.guidance import alignment
from sgg_core.guidance.closures import ClosureBatch
from sgg_core.guidance.passes import SourceBatch, TaskBatch, balanced_halves, displaced
from sgg_core.guidance.step import GuidedStep
from sgg_core.lora_layers import lora
from sgg_core.seeding import derived_seed
from sgg_core.spec import GuidanceSpec, LoraSpec, TrainingSpec
from sgg_core.tasks.choice import encoded, make_task
from sgg_core.tasks.task import LossSum

INPUTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
ITEMS = [Encoded((index,), label=index % 2) for index in range(8)]
PLAIN = {"ramp_fraction": 0.0, "clip_z": None}
SEED = 11


class SmallTask:
    """A two-layer classifier in float64 behind the seam of all tasks. An item's first token names its input."""

    def __init__(self, seed=0, dropout=0.0, shared=None):
        generator = torch.Generator().manual_seed(seed)
        first = Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
        self.parameters = [
            first if shared is None else shared,
            Parameter(torch.randn(4, 2, generator=generator, dtype=torch.float64)),
        ]
        self.dropout = dropout
        self.base = LoadedBase(None, None, None, "", None, torch.device("cpu"))  # no network, and nobody to meet

    def units(self, items):
        return len(items)

    def passes(self, items, scoring=False):
        yield from ([index] for index in range(len(items)))

    def loss(self, items):
        hidden = torch.tanh(INPUTS[[item.ids[0] for item in items]] @ self.parameters[0])
        scores = functional.dropout(hidden, self.dropout) @ self.parameters[1]
        gold = torch.tensor([item.label for item in items])
        total = functional.cross_entropy(scores, gold, reduction="sum")
        return LossSum(total, len(items), int((scores.argmax(-1) == gold).sum()))

    def log_probabilities(self, items):
        hidden = torch.tanh(INPUTS[[item.ids[0] for item in items]] @ self.parameters[0])
        return (hidden @ self.parameters[1]).log_softmax(-1)


def whole_batch_gradient(task, items, at=None):
    """The mean loss' gradient in one pass, as one flat vector, at other parameters if `at` is given."""
    parameters = task.parameters if at is None else list(at.split([12, 8]))
    first, second = parameters[0].reshape(3, 4), parameters[1].reshape(4, 2)
    first, second = (tensor.detach().clone().requires_grad_() for tensor in (first, second))
    scores = torch.tanh(INPUTS[[item.ids[0] for item in items]] @ first) @ second
    loss = functional.cross_entropy(scores, torch.tensor([item.label for item in items]))
    return flat(torch.autograd.grad(loss, [first, second]))


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


class Stepper(GuidedStep):
    """A guided step on batches of one task, with the dropout of a numbered step."""

    def __init__(self, task, parameters, spec, seed=SEED):
        super().__init__(parameters, spec)
        self.task, self.seed = task, seed

    def step(self, number, strength, items, *sources):
        return self.take(batch_of(self.task, items, self.parameters, number, self.seed), strength, sources)


def batch_of(task, items, parameters=None, number=0, seed=SEED):
    return TaskBatch(task, items, parameters or task.parameters, derived_seed(seed, "dropout", number))


def batch_gradient(task, items, parameters, number=0):
    return batch_of(task, items, parameters, number).gradient()


def guided(task, **guidance):
    return Stepper(task, task.parameters, GuidanceSpec(**(PLAIN | {"radius": 0.05} | guidance)))


def test_displaced_parameters_come_back_bit_for_bit():
    parameters = [Parameter(torch.randn(50) * 10.0**power) for power in range(-6, 6)]
    before = [parameter.detach().clone() for parameter in parameters]
    by = [torch.randn(50) for _ in parameters]
    with displaced(parameters, by):
        for parameter, start, change in zip(parameters, before, by, strict=True):
            assert torch.equal(parameter, start + change)
    assert all(torch.equal(parameter, start) for parameter, start in zip(parameters, before, strict=True))


def test_displaced_parameters_come_back_after_an_error_too():
    task = SmallTask()
    before = flat(task.parameters).clone()
    with pytest.raises(KeyboardInterrupt), displaced(task.parameters, [torch.ones(3, 4), torch.ones(4, 2)]):
        raise KeyboardInterrupt
    assert torch.equal(flat(task.parameters), before)


class BreakingTask(SmallTask):
    """Diverges away from where it began."""

    def loss(self, items):
        part = super().loss(items)
        self.start = getattr(self, "start", flat(self.parameters).clone())
        here = torch.equal(flat(self.parameters), self.start)
        return part if here else LossSum(part.total * torch.nan, part.units, part.correct)


def test_a_second_pass_that_diverges_leaves_the_parameters_as_they_were():
    task = BreakingTask()
    before = flat(task.parameters).clone()
    with pytest.raises(TrainingDivergedError, match="Lower the learning rate"):
        guided(task).step(1, 1.0, ITEMS)
    assert torch.equal(flat(task.parameters), before)
    assert all(parameter.grad is None for parameter in task.parameters)


def test_the_gradient_of_small_passes_is_the_whole_batchs():
    task = SmallTask()
    ours = batch_gradient(task, ITEMS, task.parameters)
    assert torch.allclose(flat(ours.gradient), whole_batch_gradient(task, ITEMS), rtol=1e-12)
    assert ours.loss == pytest.approx(task.loss(ITEMS).total.item() / 8)
    assert ours.accuracy == task.loss(ITEMS).correct / 8


def test_a_parameter_that_the_loss_does_not_reach_has_a_zero_gradient():
    task = SmallTask()
    unused = Parameter(torch.ones(2, 2, dtype=torch.float64))
    gradient = batch_gradient(task, ITEMS, [*task.parameters, unused]).gradient
    assert torch.equal(gradient[2], torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "kind"), [("causal", "classification"), ("causal", "completion"), ("encoder", "classification")]
)
def test_passes_of_one_example_and_of_all_give_a_base_model_one_gradient(name, kind, request, file_of, monkeypatch):
    base = request.getfixturevalue(name)
    rows = {
        "classification": [{"text": "word " * n, "label": "odd" if n % 2 else "even"} for n in range(1, 9)],
        "completion": [{"prompt": "say " * n, "completion": "word" * (9 - n)} for n in range(1, 9)],
    }[kind]
    task = make_task(TrainingSpec(base_model=base.entry.name), base, file_of(rows))
    items = encoded(task, file_of(rows))
    with lora(base, LoraSpec(rank=2), seed=0) as adapted:
        parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for number, parameter in enumerate(parameters):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 5)
        found = []
        for budget, passes in ((1, 8), (1_000_000, 1)):
            monkeypatch.setitem(encoding.TOKENS_PER_PASS, "cpu", budget)
            assert len(list(task.passes(items))) == passes
            found.append(batch_gradient(task, items, parameters))
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)
    assert found[0].accuracy == found[1].accuracy
    difference = flat(found[0].gradient) - flat(found[1].gradient)
    assert difference.norm() < 1e-4 * flat(found[1].gradient).norm()


@pytest.mark.parametrize("reference", ["ema", "split"])
def test_both_passes_of_a_step_drop_the_same_units(reference):
    task = SmallTask(dropout=0.5)
    step = guided(task, reference=reference, radius=1e-7, magnitude=1.0)
    plain = Stepper(task, task.parameters, None).step(1, 0.0, ITEMS)
    if reference == "ema":
        raw = flat(plain.gradient)
    else:
        halves = balanced_halves(ITEMS)
        raw = sum(flat(batch_gradient(task, half, task.parameters, 1).gradient) for half in halves) / 2
    assert (flat(step.step(1, 1.0, ITEMS).gradient) - raw).norm() < 1e-5 * raw.norm()
    others = [flat(step.step(number, 0.0, ITEMS).gradient) for number in (2, 3)]
    assert (others[0] - others[1]).norm() > 0.1 * raw.norm(), "dropout does not act"


def test_lora_dropout_is_equal_in_both_passes_and_differs_between_steps(base, training, spec_for):
    spec = spec_for(base, lora={"dropout": 0.5})
    with lora(base, spec.lora, spec.seed) as adapted:
        task = make_task(spec, base, training)
        items = encoded(task, training)
        parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        raw = flat(Stepper(task, parameters, None, 5).step(1, 0.0, items).gradient)
        step = Stepper(task, parameters, GuidanceSpec(**PLAIN, radius=1e-4, magnitude=1.0), 5)
        corrected = flat(step.step(1, 1.0, items).gradient)
        other = flat(Stepper(task, parameters, None, 5).step(2, 0.0, items).gradient)
    assert 0 < (corrected - raw).norm() < 0.01 * raw.norm()
    assert (other - raw).norm() > 0.05 * raw.norm()


def test_a_step_leaves_the_global_random_state_alone():
    task = SmallTask(dropout=0.5)
    before = torch.get_rng_state()
    guided(task).step(1, 1.0, ITEMS)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_step_is_the_documented_formula():
    task = SmallTask()
    step = guided(task, magnitude=0.7, direction=0.3, ema_beta=0.5, radius=0.05)
    average = torch.zeros(20, dtype=torch.float64)
    for number in range(1, 9):
        items = ITEMS[number % 3 :]
        theta, g = flat(task.parameters).clone(), whole_batch_gradient(task, items)
        ghat, strengths = g / g.norm(), (0.7, 0.3 if number > 5 else 0.0)  # a_d = 0 for the first five updates
        v = sum(strengths) * ghat
        if number > 5:
            d = average / average.norm()
            v = v - 0.3 * d
        displaced_gradient = whole_batch_gradient(task, items, theta + 0.05 * v / v.norm())
        expected = g + v.norm() * (displaced_gradient - g)
        outcome = step.step(number, 1.0, items)
        assert torch.allclose(flat(outcome.gradient), expected, rtol=1e-10, atol=1e-13)
        assert outcome.gradient_norm == pytest.approx(float(g.norm()))
        assert outcome.reference_cosine == (pytest.approx(float(ghat @ d)) if number > 5 else None)
        average = 0.5 * average + 0.5 * g
        with torch.no_grad():
            for parameter, gradient in zip(task.parameters, outcome.gradient, strict=True):
                parameter -= 0.3 * gradient


@pytest.mark.parametrize("strength", [0.0, 0.25])
def test_the_ramp_scales_the_correction_and_at_zero_there_is_none(strength):
    task = SmallTask()
    theta, g = flat(task.parameters), whole_batch_gradient(task, ITEMS)
    displaced_gradient = whole_batch_gradient(task, ITEMS, theta + 0.05 * g / g.norm())
    outcome = guided(task, magnitude=0.8, direction=0.0).step(1, strength, ITEMS)
    expected = g + 0.8 * strength * (displaced_gradient - g)
    assert torch.allclose(flat(outcome.gradient), expected, rtol=1e-12)


@pytest.mark.parametrize("reference", ["ema", "split"])
def test_the_exact_variant_is_the_limit_of_finite_differences_also_under_dropout(reference):
    task = SmallTask(dropout=0.5)
    settings = {"reference": reference, "magnitude": 0.7, "direction": 0.3}
    raw = flat(guided(task, reference=reference).step(1, 0.0, ITEMS).gradient)
    corrections = {
        (variant, radius): (
            flat(guided(task, variant=variant, radius=radius, **settings).step(1, 1.0, ITEMS).gradient) - raw
        )
        / radius
        for variant in ("exact", "finite_difference")
        for radius in (1e-2, 1e-4)
    }
    exact = corrections["exact", 1e-2]
    assert torch.allclose(exact, corrections["exact", 1e-4], rtol=1e-8, atol=1e-10)
    assert exact.norm() > 0.01
    errors = [float((corrections["finite_difference", radius] - exact).norm()) for radius in (1e-2, 1e-4)]
    assert errors[1] < 0.02 * errors[0] < 1e-3 * exact.norm()


@pytest.mark.parametrize(
    ("name", "kind"), [("causal", "classification"), ("causal", "completion"), ("encoder", "classification")]
)
def test_double_backward_works_through_every_kind_of_task(name, kind, sharp, file_of):
    base = sharp(name)
    rows = {
        "classification": [{"text": "word " * n, "label": "odd" if n % 2 else "even"} for n in range(1, 5)],
        "completion": [{"prompt": "say " * n, "completion": "word"} for n in range(1, 5)],
    }[kind]
    task = make_task(TrainingSpec(base_model=base.entry.name), base, file_of(rows))
    items = encoded(task, file_of(rows))
    generator = torch.Generator().manual_seed(0)
    with lora(base, LoraSpec(rank=2), seed=0) as adapted:
        parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 100)
        v = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        product = batch_of(task, items, parameters).product(v)
        sides = []
        for sign in (1e-5, -1e-5):
            with displaced(parameters, [sign * part for part in v]):
                sides.append(flat(batch_gradient(task, items, parameters).gradient))
    difference = (sides[0] - sides[1]) / 2e-5
    assert (flat(product) - difference).norm() < 1e-3 * difference.norm()


def test_momentum_takes_one_gradient_where_the_last_step_points():
    task = SmallTask()
    passes = []
    loss = task.loss
    task.loss = lambda items: passes.append(items) or loss(items)
    step = guided(task, variant="momentum", magnitude=0.7, direction=0.3, ema_beta=0.5, radius=0.05)
    average, v = torch.zeros(20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)
    for number in range(1, 9):
        items, strength = ITEMS[number % 3 :], 0.1 * number
        theta = flat(task.parameters).clone()
        g = whole_batch_gradient(task, items, theta + 0.05 * strength * v)
        v = 0.7 * g / g.norm()
        if number > 5:
            v = v + 0.3 * (g / g.norm() - average / average.norm())
        average = 0.5 * average + 0.5 * g
        passes.clear()
        outcome = step.step(number, strength, items)
        assert len(passes) == len(items)
        assert torch.equal(flat(task.parameters), theta)
        assert torch.allclose(flat(outcome.gradient), g, rtol=1e-10, atol=1e-13)
        with torch.no_grad():
            for parameter, gradient in zip(task.parameters, outcome.gradient, strict=True):
                parameter -= 0.3 * gradient


def test_every_kth_step_is_corrected_k_times_as_strongly():
    task = SmallTask()
    step = guided(task, magnitude=0.8, direction=0.0, every=3)
    g = whole_batch_gradient(task, ITEMS)
    theta = flat(task.parameters)
    displaced_gradient = whole_batch_gradient(task, ITEMS, theta + 0.05 * g / g.norm())
    for number in range(1, 7):
        expected = g + (2.4 * (displaced_gradient - g) if number % 3 == 0 else 0.0)
        outcome = step.step(number, step.strength(number, 6, 0.0), ITEMS)
        assert torch.allclose(flat(outcome.gradient), expected, rtol=1e-12)


def test_split_measures_one_half_against_the_other_and_corrects_the_whole():
    task = SmallTask()
    theta = flat(task.parameters).clone()
    measured, other = ITEMS[0:8:4] + ITEMS[1:8:4], ITEMS[2:8:4] + ITEMS[3:8:4]  # of each label every other item
    g, first, second = (whole_batch_gradient(task, items) for items in (ITEMS, measured, other))
    ghat, d = first / first.norm(), second / second.norm()
    v = (0.7 + 0.3) * ghat - 0.3 * d
    correction = v.norm() * (whole_batch_gradient(task, measured, theta + 0.05 * v / v.norm()) - first)
    outcome = guided(task, reference="split", magnitude=0.7, direction=0.3).step(1, 1.0, ITEMS)
    assert torch.allclose(flat(outcome.gradient), g + correction, rtol=1e-10)
    assert outcome.reference_cosine == pytest.approx(float(ghat @ d))
    assert outcome.gradient_norm == pytest.approx(float(g.norm()))
    assert outcome.loss == pytest.approx(task.loss(ITEMS).total.item() / 8)
    assert outcome.accuracy == task.loss(ITEMS).correct / 8


def test_halves_of_unequal_size_make_up_the_whole_batch():
    task, items = SmallTask(), ITEMS[:7]
    assert [len(half) for half in balanced_halves(items)] == [4, 3]
    outcome = guided(task, reference="split").step(1, 0.0, items)
    assert torch.allclose(flat(outcome.gradient), whole_batch_gradient(task, items), rtol=1e-10)
    assert outcome.loss == pytest.approx(task.loss(items).total.item() / 7)
    assert outcome.accuracy == pytest.approx(task.loss(items).correct / 7)


@pytest.mark.parametrize("labels", [(0, 0, 0, 0, 1, 1), (0, 1, 2, 0, 1, 2, 0), (0, 1), (2, 1, 0), tuple([0] * 5)])
def test_halves_share_each_label_evenly_and_lose_nothing(labels):
    items = [Encoded((index,), label) for index, label in enumerate(labels)]
    first, second = balanced_halves(items)
    assert sorted(item.ids for item in first + second) == [item.ids for item in items]
    assert first and second
    for label in set(labels):
        counts = [sum(item.label == label for item in half) for half in (first, second)]
        assert abs(counts[0] - counts[1]) <= 1


def test_split_with_a_single_example_has_no_reference_and_works():
    task = SmallTask()
    outcome = guided(task, reference="split", magnitude=0.0, direction=1.0).step(1, 1.0, ITEMS[:1])
    assert outcome.reference_cosine is None
    assert torch.allclose(flat(outcome.gradient), whole_batch_gradient(task, ITEMS[:1]))


def test_an_abnormal_gradient_is_brought_back_to_the_threshold():
    task = SmallTask()
    step = guided(task, magnitude=0.0, direction=0.0, clip_z=2.0)
    for number in range(1, 9):
        assert not step.step(number, 0.0, ITEMS[: 4 + number % 3]).clipped
    threshold = step.clip.threshold()
    with torch.no_grad():
        task.parameters[1] *= 30
        task.parameters[0] *= 0.1
    outcome = step.step(9, 0.0, ITEMS)
    assert outcome.gradient_norm == pytest.approx(float(whole_batch_gradient(task, ITEMS).norm()))
    assert outcome.gradient_norm > 2 * threshold and outcome.clipped
    assert float(flat(outcome.gradient).norm()) == pytest.approx(threshold)
    cosine = functional.cosine_similarity(flat(outcome.gradient), whole_batch_gradient(task, ITEMS), dim=0)
    assert float(cosine) == pytest.approx(1.0)


def test_without_a_z_score_nothing_is_clipped():
    task = SmallTask()
    step = guided(task, magnitude=0.0, direction=0.0)
    for number in range(1, 10):
        with torch.no_grad():
            task.parameters[1] *= 3.0
        outcome = step.step(number, 0.0, ITEMS)
        assert not outcome.clipped
        assert torch.allclose(flat(outcome.gradient), whole_batch_gradient(task, ITEMS))


def source_gradient(task, items):
    """Of the shared layer, as a vector over the target's parameters: zero where the two share nothing."""
    own = whole_batch_gradient(task, items).clone()
    own[12:] = 0.0
    return own


@pytest.mark.parametrize("source_weight", ["gated", "fixed"])
@pytest.mark.parametrize("seed", range(4))
def test_a_source_is_aligned_as_documented(source_weight, seed):
    target = SmallTask(seed)
    source = SmallTask(seed + 100, shared=target.parameters[0])
    step = guided(target, magnitude=0.0, direction=0.0, alignment=0.6, source_weight=source_weight, source_cap=0.5)
    smoothed = 0.0
    for number in range(1, 5):
        theta = flat(target.parameters).clone()
        items, of_source = ITEMS[number % 2 :], ITEMS[: 5 + number % 2]
        g, g_s = whole_batch_gradient(target, items), source_gradient(source, of_source)
        v = 0.6 * g / g.norm() - 0.6 * g_s / g_s.norm()
        corrected = g + v.norm() * (whole_batch_gradient(target, items, theta + 0.05 * v / v.norm()) - g)
        cosine = float(functional.cosine_similarity(g, g_s, dim=0))
        smoothed = 0.9 * smoothed + 0.1 * cosine
        helpful = g_s - min(0.0, float(g_s @ g)) / float(g @ g) * g
        wanted = max(0.0, smoothed / (1 - 0.9**number)) if source_weight == "gated" else 1.0
        weight = min(wanted, 0.5 * float(g.norm() / helpful.norm()))
        outcome = step.step(number, 1.0, items, SourceBatch(batch_of(source, of_source), shared=1))
        assert torch.allclose(flat(outcome.gradient), corrected + weight * helpful, rtol=1e-9, atol=1e-12)
        assert outcome.source_cosine == pytest.approx(cosine)
        assert outcome.source_weight == pytest.approx(weight)
        assert torch.allclose(flat(outcome.source_gradients[0]), whole_batch_gradient(source, of_source))
        with torch.no_grad():
            for parameter, gradient in zip(target.parameters, outcome.gradient, strict=True):
                parameter -= 0.5 * gradient


def conflict_free(source, target, cap):
    """The source's part that is not against the target, in full but for the cap."""
    helpful = source - min(0.0, float(source @ target)) / float(target @ target) * target
    return min(1.0, cap * float(target.norm() / helpful.norm())) * helpful


def test_sources_of_layer_scope_are_aligned_in_each_layer_by_itself():
    target, source = SmallTask(1), SmallTask()
    source.parameters = target.parameters
    items = [Encoded(item.ids, 1 - item.label) if number % 3 else item for number, item in enumerate(ITEMS)]
    scope = {"source_scope": "layer", "source_weight": "fixed", "source_cap": 0.5}
    spec = GuidanceSpec(**PLAIN, magnitude=0.0, direction=0.0, **scope)
    step = GuidedStep(target.parameters, spec, ["layer.0.weight", "layer.1.weight"])
    outcome = step.take(batch_of(target, ITEMS), 1.0, [SourceBatch(batch_of(source, items), 2)])
    layers = {"layer.0": slice(0, 12), "layer.1": slice(12, 20)}
    g, g_s = whole_batch_gradient(target, ITEMS), whole_batch_gradient(target, items)
    expected = [g[part] + conflict_free(g_s[part], g[part], 0.5) for part in layers.values()]
    assert torch.allclose(flat(outcome.gradient), torch.cat(expected), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(flat(outcome.gradient), g + conflict_free(g_s, g, 0.5), rtol=0.01)
    assert outcome.layer_source_cosines == {
        name: pytest.approx(float(functional.cosine_similarity(g[part], g_s[part], dim=0)))
        for name, part in layers.items()
    }


def test_of_several_sources_each_is_aligned_and_the_step_turns_towards_their_sum():
    target, sources = SmallTask(3), [SmallTask(), SmallTask()]
    for source in sources:
        source.parameters = target.parameters
    rows = [ITEMS[:5], [Encoded(item.ids, 1 - item.label) for item in ITEMS[3:]]]
    step = guided(target, magnitude=0.0, direction=0.0, alignment=0.6, source_weight="fixed", source_cap=0.5)
    theta = flat(target.parameters).clone()
    batches = [
        SourceBatch(batch_of(source, items), 2, n) for n, (source, items) in enumerate(zip(sources, rows, strict=True))
    ]
    outcome = step.step(1, 1.0, ITEMS, *batches)
    g, *of_sources = (whole_batch_gradient(target, items) for items in (ITEMS, *rows))
    towards = sum(of_sources)
    v = 0.6 * g / g.norm() - 0.6 * towards / towards.norm()
    corrected = g + v.norm() * (whole_batch_gradient(target, ITEMS, theta + 0.05 * v / v.norm()) - g)
    expected = corrected + sum(conflict_free(g_s, g, 0.5) for g_s in of_sources)
    assert torch.allclose(flat(outcome.gradient), expected, rtol=1e-9, atol=1e-12)
    cosines = [float(functional.cosine_similarity(g, g_s, dim=0)) for g_s in of_sources]
    assert cosines[0] > 0 > cosines[1]
    assert outcome.source_cosine == pytest.approx(sum(cosines) / 2)
    assert outcome.layer_source_cosines == {"all": pytest.approx(sum(cosines) / 2)}


def test_a_source_of_equal_rank_and_the_target_are_weighted_so_that_the_step_is_against_neither():
    parameters = [Parameter(torch.zeros(2, dtype=torch.float64))]
    g, g_s = torch.tensor([1.0, 0.0]).double(), torch.tensor([-0.8, 0.6]).double()
    of_target, of_source = (ClosureBatch(lambda slope=slope: parameters[0] @ slope, parameters) for slope in (g, g_s))
    spec = GuidanceSpec(**PLAIN, magnitude=0.0, direction=0.0, source_weight="equal")
    outcome = GuidedStep(parameters, spec).take(of_target, 1.0, [SourceBatch(of_source, 1)])
    own, other = alignment.equal_rank_weights([[g], [g_s]])
    assert own > 1.01 and other > 1.01
    assert torch.allclose(outcome.gradient[0], own * g + other * g_s, rtol=1e-9)
    assert min(float(outcome.gradient[0] @ gradient) for gradient in (g, g_s)) >= -1e-3
    assert outcome.source_weight == pytest.approx(other)
    assert outcome.source_cosine == pytest.approx(-0.8)


def test_a_cross_fitted_source_has_the_weight_that_its_rehearsal_earned_and_no_cap():
    target = SmallTask(3)
    sources = [SmallTask(seed, shared=target.parameters[0]) for seed in (103, 104, 105)]
    step = guided(target, magnitude=0.0, direction=0.0, source_weight="cross_fitted", source_cap=0.0)
    step.trust = {0: 0.25, 1: 1.0}
    batches = [SourceBatch(batch_of(source, ITEMS), 1, number) for number, source in enumerate(sources)]
    g = whole_batch_gradient(target, ITEMS)
    for number, trust in enumerate((0.25, 1.0, 0.0)):
        outcome = step.step(1, 1.0, ITEMS, batches[number])
        helpful = conflict_free(source_gradient(sources[number], ITEMS), g, torch.inf)
        assert torch.allclose(flat(outcome.gradient), g + trust * helpful, rtol=1e-9, atol=1e-12)
        assert outcome.source_weight == pytest.approx(trust)


def test_without_guidance_the_outcome_is_the_raw_gradient_with_telemetry():
    task = SmallTask()
    step = Stepper(task, task.parameters, None)
    outcomes = [step.step(number, step.strength(number, 7, 0.1), ITEMS) for number in range(1, 8)]
    for outcome in outcomes:
        assert torch.equal(flat(outcome.gradient), flat(batch_gradient(task, ITEMS, task.parameters).gradient))
        assert not outcome.clipped
    assert [outcome.reference_cosine for outcome in outcomes] == [*[None] * 5, *[pytest.approx(1.0)] * 2]


def test_an_anchor_is_the_first_reference_and_fades_into_the_average():
    task = SmallTask()
    step = guided(task, reference="anchor", ema_beta=0.5)
    step.begin([batch_of(task, ITEMS)])
    average = whole_batch_gradient(task, ITEMS)
    for number in range(1, 6):
        items = ITEMS[number % 3 :]
        g = whole_batch_gradient(task, items)
        outcome = step.step(number, 1.0, items)
        assert outcome.reference_cosine == pytest.approx(float(functional.cosine_similarity(g, average, dim=0)))
        average = 0.5 * average + 0.5 * g
        with torch.no_grad():
            for parameter, gradient in zip(task.parameters, outcome.gradient, strict=True):
                parameter -= 0.3 * gradient


def test_an_anchor_is_the_mean_over_batches_of_different_size():
    task = SmallTask()
    step = guided(task, reference="anchor")
    step.begin([batch_of(task, ITEMS[:5]), batch_of(task, ITEMS[5:])])
    mean = (whole_batch_gradient(task, ITEMS[:5]) + whole_batch_gradient(task, ITEMS[5:])) / 2
    cosine = float(functional.cosine_similarity(whole_batch_gradient(task, ITEMS[:3]), mean, dim=0))
    assert step.step(1, 1.0, ITEMS[:3]).reference_cosine == pytest.approx(cosine)


def divergence(task, origin):
    """KL(p at `origin` || p), averaged over the items, from its definition."""
    with displaced(task.parameters, [o - p.detach() for o, p in zip(origin, task.parameters, strict=True)]):
        before = task.log_probabilities(ITEMS).detach().exp()
    return functional.kl_div(task.log_probabilities(ITEMS), before, reduction="batchmean")


def moved(task):
    """Where the task began; its parameters are then elsewhere."""
    origin = [parameter.detach().clone() for parameter in task.parameters]
    with torch.no_grad():
        for seed, parameter in enumerate(task.parameters):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)).double()
    return origin


def test_drift_is_the_gradient_of_the_divergence_from_the_start_and_needs_no_label():
    task = SmallTask()
    step = guided(task, reference="base_kl")
    step.begin([batch_of(task, ITEMS)])
    assert {step.step(number, 1.0, ITEMS).reference_cosine for number in range(1, 6)} == {None}  # nothing drifted yet
    origin = moved(task)
    expected = flat(torch.autograd.grad(divergence(task, origin), task.parameters))
    unlabelled = [Encoded(item.ids) for item in ITEMS]
    assert torch.allclose(flat(batch_of(task, unlabelled).drift(origin)), expected, rtol=1e-5, atol=1e-9)
    g = whole_batch_gradient(task, ITEMS)
    cosine = float(functional.cosine_similarity(g, -expected, dim=0))
    assert step.step(6, 1.0, ITEMS).reference_cosine == pytest.approx(cosine)


@pytest.mark.parametrize("seed", range(5))
def test_guidance_by_drift_keeps_a_run_nearer_to_its_start(seed):
    """With the opposite sign it drives the run away: L - lambda <g, d> is minimal lambda d from where L is."""
    ends = []
    for strength in (0.0, 1.0):
        task = SmallTask(seed)
        step = guided(task, reference="base_kl", direction=strength, magnitude=0.0, radius=0.3)
        step.begin([batch_of(task, ITEMS)])
        for number in range(1, 60):
            outcome = step.step(number, 1.0, ITEMS)
            with torch.no_grad():
                for parameter, gradient in zip(task.parameters, outcome.gradient, strict=True):
                    parameter -= 0.2 * gradient
        ends.append(float(divergence(task, step.origin).detach()))
    assert ends[1] < 0.95 * ends[0]


def test_sources_of_equal_rank_and_by_layer_never_turn_the_step_against_the_target():
    for rule in ({"source_weight": "equal"}, {"source_scope": "layer"}, {"source_weight": "fixed", "source_cap": 2.0}):
        for seed in range(6):
            target = SmallTask(seed)
            sources = [SmallTask(seed + 100 * n, shared=target.parameters[0]) for n in (1, 2)]
            step = guided(target, magnitude=0.0, direction=0.0, **rule)
            batches = [SourceBatch(batch_of(s, ITEMS[n:]), 1, n) for n, s in enumerate(sources)]
            outcome = step.step(1, 1.0, ITEMS, *batches)
            g = whole_batch_gradient(target, ITEMS)
            assert float(flat(outcome.gradient) @ g) >= (0.0 if "equal" in rule.values() else float(g @ g)) - 1e-5
            assert len(outcome.source_gradients) == 2
            if rule.get("source_weight") != "equal":
                assert set(step.agreement) == {0, 1}


@pytest.mark.parametrize("strengths", [(1.0, 0.0), (0.7, 0.3), (0.0, 1.0)])
@pytest.mark.parametrize("factor", [1.0, 4.0])  # a correction in every step, and in every fourth
@pytest.mark.parametrize("seed", range(5))
def test_the_guided_direction_descends_the_target(strengths, factor, seed):
    """At the default radius, all along a run of plain descent, until nothing is left to descend."""
    task = SmallTask(seed)
    magnitude, direction = strengths
    step = guided(task, magnitude=magnitude, direction=direction, radius=0.02)
    for number in range(1, 40):
        g = whole_batch_gradient(task, ITEMS)
        outcome = step.step(number, factor, ITEMS)
        if float(g.norm()) > 0.02:
            assert float(flat(outcome.gradient) @ g) > 0.0
        with torch.no_grad():
            for parameter, gradient in zip(task.parameters, outcome.gradient, strict=True):
                parameter -= 0.3 * gradient


class FactoredTask:
    """A loss of the weight s B A and an offset, and the dense projection of the full weight's gradient."""

    NAMES = ("layer.0.lora_A.default.weight", "layer.0.lora_B.default.weight", "layer.1.weight")
    SCALE = 4.0

    def __init__(self):
        generator = torch.Generator().manual_seed(4)
        self.parameters = [
            Parameter(torch.randn(*shape, generator=generator).double()) for shape in ((2, 3), (2, 2), (2,))
        ]

    def loss(self, weight, offset, sign, rows):
        scores = INPUTS[rows] @ weight.T + offset
        return functional.cross_entropy(sign * scores, (INPUTS[rows, 0] > 0).long()) + 0.1 * offset.square().sum()

    def closure(self, sign=1.0, rows=slice(16)):
        a, b, offset = self.parameters
        return lambda: self.loss(self.SCALE * b @ a, offset, sign, rows)

    def batch(self, sign=1.0, rows=slice(16), halves=None):
        return ClosureBatch(self.closure(sign, rows), self.parameters, halves)

    def projected(self, sign=1.0, rows=slice(16)):
        a, b, offset = (parameter.detach() for parameter in self.parameters)
        weight, offset = (self.SCALE * b @ a).requires_grad_(), offset.clone().requires_grad_()
        full, of_offset = torch.autograd.grad(self.loss(weight, offset, sign, rows), [weight, offset])
        of_a, of_b = torch.linalg.pinv(a) @ a, b @ torch.linalg.pinv(b)
        return torch.cat([(of_b @ full + full @ of_a - of_b @ full @ of_a).flatten(), of_offset])

    def step(self, **guidance):
        return GuidedStep(self.parameters, GuidanceSpec(**PLAIN, **guidance), self.NAMES, self.SCALE)


def test_projected_figures_and_cosines_by_layer_are_those_of_their_definitions():
    task = FactoredTask()
    outcome = task.step().take(task.batch(), 0.0, [SourceBatch(task.batch(sign), 3) for sign in (-0.5, 0.3)])
    target, *sources = (task.projected(sign) for sign in (1.0, -0.5, 0.3))
    assert outcome.projected.gradient_norm == pytest.approx(float(target.norm()), rel=1e-8)
    expected = sum(float(functional.cosine_similarity(target, source, dim=0)) for source in sources) / 2
    assert outcome.projected.source_cosine == pytest.approx(expected, abs=1e-8)
    assert outcome.projected.reference_cosine is None
    g, *of_sources = (task.batch(sign).gradient().gradient for sign in (1.0, -0.5, 0.3))
    assert outcome.layer_source_cosines == {
        name: pytest.approx(
            sum(float(functional.cosine_similarity(flat(g[part]), flat(g_s[part]), dim=0)) for g_s in of_sources) / 2
        )
        for name, part in {"layer.0": slice(0, 2), "layer.1": slice(2, 3)}.items()
    }


def test_the_projected_reference_cosine_is_that_of_the_projected_average():
    task = FactoredTask()
    step, parts = task.step(ema_beta=0.8), [slice(number, number + 7) for number in range(6)]
    for part in parts:
        outcome = step.take(task.batch(rows=part), 0.0, [SourceBatch(task.batch(-0.5), 3)])
    average = sum(0.8 ** (5 - age) * task.projected(rows=part) for age, part in enumerate(parts[:5], start=1))
    expected = float(functional.cosine_similarity(task.projected(rows=parts[5]), average, dim=0))
    assert outcome.projected.reference_cosine == pytest.approx(expected, abs=1e-8)
    assert outcome.reference_cosine != pytest.approx(expected, abs=1e-3)


def test_with_split_the_projected_reference_cosine_is_that_of_the_halves():
    task, parts = FactoredTask(), [slice(0, 8), slice(8, 16)]
    batch = task.batch(halves=tuple(task.closure(rows=part) for part in parts))
    outcome = task.step(reference="split").take(batch, 0.0, [SourceBatch(task.batch(-0.5), 3)])
    first, second = (task.projected(rows=part) for part in parts)
    expected = float(functional.cosine_similarity(first, second, dim=0))
    assert outcome.projected.reference_cosine == pytest.approx(expected, abs=1e-8)
    assert outcome.projected.gradient_norm == pytest.approx(float((first + second).norm() / 2), rel=1e-8)
    of_source = float(functional.cosine_similarity(first + second, task.projected(-0.5), dim=0))
    assert outcome.projected.source_cosine == pytest.approx(of_source, abs=1e-8)
