from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sgg_core.catalogue import BaseModelEntry
from sgg_core.tiny import save_tiny_base
from worker.testing import Workbench


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModelEntry:
    return save_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make_bench(
    tmp_path: Path, tiny: BaseModelEntry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Workbench]]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made: list[Workbench] = []

    def make(**settings: Any) -> Workbench:
        made.append(Workbench(tmp_path / "data", tiny, **settings))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
