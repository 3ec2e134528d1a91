"""Randomness as a function of one seed: the same everywhere, and without traces."""

import hashlib
import random
import subprocess
import sys
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.seeding import balanced_batch, derived_seed, epoch_order
from sgg_core.torch_seeding import torch_seed

seeds = st.integers(0, 2**31 - 1)


def test_derived_seeds_are_the_first_63_bits_of_a_hash_and_so_the_same_in_every_version():
    digest = hashlib.sha256(b"(7, 'order', 3)").hexdigest()
    assert derived_seed(7, "order", 3) == int(digest[:16], 16) // 2


def test_another_process_derives_the_same_seeds_whatever_its_hash_seed():
    code = "from sgg_core.seeding import *; print(derived_seed(1, 'lora'), epoch_order(9, 1, 2))"
    told = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        for seed in ("1", "2")
    ]
    expected = f"{derived_seed(1, 'lora')} {epoch_order(9, 1, 2)}\n".encode()
    assert [one.stdout for one in told] == [expected, expected]


@given(seeds, st.text(max_size=5), st.integers(0, 1000))
def test_derived_seeds_fit_a_generator(seed, purpose, number):
    derived = derived_seed(seed, purpose, number)
    assert 0 <= derived < 2**63
    torch.Generator().manual_seed(derived)


def test_no_two_purposes_seeds_or_steps_share_a_stream():
    purposes = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("a", 1), ("a", "1"), (1, "a"), ("a", 11), ("a", 1, 1)]
    derived = [derived_seed(seed, *purpose) for seed in range(50) for purpose in purposes]
    assert len(set(derived)) == len(derived)


@given(st.integers(0, 60), seeds, st.integers(0, 100))
def test_an_epochs_order_holds_every_example_once_and_is_always_the_same(size, seed, epoch):
    order = epoch_order(size, seed, epoch)
    assert sorted(order) == list(range(size))
    assert order == epoch_order(size, seed, epoch)


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(epoch_order(30, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_orders_leave_the_global_generator_alone():
    random.seed(0)
    before = random.getstate()
    epoch_order(30, 0, 0)
    assert random.getstate() == before


def test_a_seeded_block_is_repeatable_and_gives_the_generator_back():
    before = torch.get_rng_state()
    with torch_seed(5):
        first = torch.randn(4)
    with torch_seed(5):
        again = torch.randn(4)
    with torch_seed(6):
        other = torch.randn(4)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_is_given_back_after_an_error_too():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), torch_seed(5):
        torch.randn(4)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_orders_need_no_torch():
    code = "import sys, sgg_core.seeding as s; s.epoch_order(5, 0, 0); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@given(label_lists, st.integers(2, 24), st.integers(1, 30), seeds, st.integers(1, 2))
def test_a_balanced_batch_holds_as_many_of_each_label_and_nothing_twice(labels, size, step, seed, least):
    batch = balanced_batch(labels, size, step, seed, least)
    shown = Counter(labels[index] for index in batch)
    wanted = min(len(set(labels)), max(least, size // least))
    each = max(least, size // wanted)
    assert len(set(batch)) == len(batch) <= max(least * least, size)
    if wanted == len(set(labels)):
        for label, count in Counter(labels).items():
            assert max(min(count, each) // 2, min(count, least)) <= shown[label] <= min(count, each)
    assert batch == balanced_batch(labels, size, step, seed, least)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(2, 16), seeds, st.integers(1, 2))
def test_balanced_batches_show_every_example_equally_often(classes, count, size, seed, least):
    labels = [label for label in range(classes) for _ in range(count)]
    wanted = min(classes, max(least, size // least))
    each = max(least, size // wanted)
    steps = classes * count  # whole laps of the labels, and whole epochs of each
    seen = Counter(index for step in range(1, steps + 1) for index in balanced_batch(labels, size, step, seed, least))
    assert set(seen) == set(range(len(labels)))
    if count % each == 0 and classes % wanted == 0:
        assert len(set(seen.values())) == 1
