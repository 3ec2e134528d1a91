"""What `sgg doctor` says of a processor is what trainings do on it, though it loads no torch for that."""

import pytest

from cli.checkup.machine import CPU_INFO, precision
from sgg_core.halves import processor_is_quick


@pytest.fixture(autouse=True)
def _automatic(monkeypatch):
    monkeypatch.setenv("SGG_CPU_PRECISION", "auto")


@pytest.mark.parametrize("source", [CPU_INFO, CPU_INFO.with_name("no-such-file")], ids=["the system", "torch"])
def test_it_is_what_torch_says_of_this_processor_whoever_is_asked(source):
    assert precision(source) == ("bfloat16" if processor_is_quick() else "float32")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\nbogomips\t: 1\n", "bfloat16"),
        ("flags\t\t: fpu amx_tile\n", "bfloat16"),
        ("flags\t\t: fpu avx512f\nvmx flags\t: amx_tile\n", "float32"),
        ("Features\t: fp asimd bf16\n", "float32"),
    ],
)
def test_either_instructions_are_enough_and_no_others_count(tmp_path, monkeypatch, text, found):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert precision(path) == found
    monkeypatch.setenv("SGG_CPU_PRECISION", "float32")
    assert precision(path) == "float32"
    monkeypatch.setenv("SGG_CPU_PRECISION", "half")
    assert precision(path) is None
