"""Garbage is not looked for while much is imported."""

import gc

from sgg_core.imports import without_collector


def test_the_collector_rests_within_the_block_and_is_afterwards_as_it_was():
    assert gc.isenabled()
    with without_collector():
        assert not gc.isenabled()
        with without_collector():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
