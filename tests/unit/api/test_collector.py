"""A server's garbage collector leaves alone what was there when it began to serve."""

import gc

from api.server import spare_the_collector


def test_what_was_there_is_not_looked_at_again():
    earlier = [[number] for number in range(100)]
    try:
        spare_the_collector()
        later = [[number] for number in range(100)]
        tracked = {id(each) for each in gc.get_objects()}
        assert not tracked & {id(earlier), *map(id, earlier)}
        assert {id(later), *map(id, later)} <= tracked
    finally:
        gc.unfreeze()
