"""Checkpoints: whole or not there, refused when damaged or foreign, and safe from a full disk."""

import json
import resource
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from sgg_core import trainer
from sgg_core.adapter_file import canonical
from sgg_core.errors import CheckpointError, DiskFullError
from sgg_core.files import sha256_of, whole_directory
from sgg_core.reporting import CheckpointSaved, SilentReporter, StepMetrics
from sgg_core.spec import TrainingSpec
from sgg_core.tiny import tiny_base

train = partial(trainer.train, with_documents=False)  # nobody reads them here

FILES = ["adapter_config.json", "adapter_model.safetensors", "sha256.json", "state.json", "state.safetensors"]


def run(spec, base, training, root, reporter=None, **data):
    places = {"output": root / "out", "checkpoints": root / "c"}
    return train(spec, base, training, reporter=reporter or SilentReporter(), **places, **data)


@pytest.fixture(scope="module")
def checkpoints(encoder, training, tmp_path_factory):
    """Checkpoints of steps 2 and 4 of a run of four steps, and its spec."""
    spec = TrainingSpec.model_validate(
        {
            "base_model": "tiny-encoder",
            "lora": {"rank": 2},
            "optimization": {"max_steps": 4, "batch_size": 4, "learning_rate": 0.01},
            "checkpoint": {"every_steps": 2},
        }
    )
    root = tmp_path_factory.mktemp("run")
    run(spec, encoder, training, root)
    return spec, root / "c"


@pytest.fixture
def copy(checkpoints, tmp_path):
    """A copy of the checkpoint of step 2, to be spoiled."""
    return shutil.copytree(checkpoints[1] / "step-00000002", tmp_path / "step-00000002")


def resume(checkpoints, base, training, tmp_path, directory, **changes):
    spec = checkpoints[0].model_copy(update=changes)
    return train(spec, base, training, output=tmp_path / "out", reporter=SilentReporter(), resume_from=directory)


def test_a_checkpoint_is_named_by_its_step_and_holds_tensors_and_json_only(checkpoints):
    found = sorted(checkpoints[1].iterdir())
    assert [path.name for path in found] == ["step-00000002", "step-00000004"]
    assert [sorted(path.name for path in directory.iterdir()) for directory in found] == [FILES, FILES]
    weights = load_file(found[0] / "adapter_model.safetensors")
    state = load_file(found[0] / "state.safetensors")
    assert {name for name in weights if name.startswith("head.")} == {"head.weight", "head.bias"}
    for prefix in ("exp_avg", "exp_avg_sq", "reference", "initial"):
        kept = {canonical(name.removeprefix(f"{prefix}.")) for name in state if name.startswith(f"{prefix}.")}
        assert kept == set(weights) - ({"head.weight", "head.bias"} if prefix != "initial" else set())


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_is_refused(name, checkpoints, copy, encoder, training, tmp_path):
    content = (copy / name).read_bytes()
    for place in (1, len(content) // 2, len(content) - 2):
        (copy / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match=r"step-00000002 cannot be read: .* Use an earlier one\."):
            resume(checkpoints, encoder, training, tmp_path, copy)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_empty_or_cut_file_is_refused(name, checkpoints, copy, encoder, training, tmp_path):
    content = (copy / name).read_bytes()
    for size in (len(content) - 1, 9, 0):
        (copy / name).write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="Use an earlier one"):
            resume(checkpoints, encoder, training, tmp_path, copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match="Use an earlier one"):
        resume(checkpoints, encoder, training, tmp_path, copy)


def test_a_checkpoint_that_is_not_there_is_refused(checkpoints, encoder, training, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(checkpoints, encoder, training, tmp_path, tmp_path / "step-00000007")


def test_a_checkpoint_of_another_spec_data_or_base_model_is_refused(
    checkpoints, copy, encoder, training, validation, tmp_path
):
    lora = checkpoints[0].lora.model_copy(update={"alpha": 3.0})
    foreign = [
        ("lora.alpha, seed", {"base": encoder, "training": training, "seed": 9, "lora": lora}),
        ("training", {"base": encoder, "training": validation}),
        ("base_model", {"base": tiny_base("encoder", seed=5), "training": training}),
    ]
    for names, changes in foreign:
        with pytest.raises(CheckpointError) as caught:
            resume(checkpoints, tmp_path=tmp_path, directory=copy, **changes)
        assert str(caught.value).endswith(
            f"belongs to another run. These differ: {names}. Resume with the same spec, data and base model."
        )
    resume(checkpoints, encoder, training, tmp_path, copy)


def test_a_run_of_a_release_that_knew_fewer_settings_goes_on(checkpoints, copy, encoder, training, tmp_path):
    state = json.loads((copy / "state.json").read_bytes())
    assert state["identity"]["spec"]["checkpoint"].pop("keep_best") is None
    del state["identity"]["spec"]["guidance"]["clip_z"]
    (copy / "state.json").write_text(json.dumps(state))
    hashes = json.loads((copy / "sha256.json").read_bytes())
    (copy / "sha256.json").write_text(json.dumps(hashes | {"state.json": sha256_of(copy / "state.json")}))
    assert resume(checkpoints, encoder, training, tmp_path, copy).step == 4


class FillingReporter(SilentReporter):
    """Leaves no room for further checkpoints after the first one."""

    def report(self, message):
        super().report(message)
        if isinstance(message, CheckpointSaved):
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_earlier_checkpoints_says_what_to_do_and_the_run_can_go_on(
    base, training, spec_for, tmp_path, adapter_bytes, file_size_limit
):
    spec, reporter = spec_for(base), FillingReporter()
    told = r"No space left while writing .*step-00000004\. Free disk space, or choose another directory, and go on\."
    with file_size_limit(resource.RLIM_INFINITY), pytest.raises(DiskFullError, match=told):
        run(spec, base, training, tmp_path / "a", reporter)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]
    (kept,) = (tmp_path / "a" / "c").iterdir()
    assert kept.name == "step-00000002"
    assert [message.step for message in reporter.messages if isinstance(message, StepMetrics)] == [1, 2, 3, 4]
    run(spec, base, training, tmp_path / "a", resume_from=kept)
    run(spec, base, training, tmp_path / "b")
    assert adapter_bytes(tmp_path / "a" / "out") == adapter_bytes(tmp_path / "b" / "out")


def test_a_directory_is_replaced_as_a_whole_or_left_alone(tmp_path):
    target = tmp_path / "deep" / "target"
    with whole_directory(target) as work:
        (work / "old").write_text("1")
        assert not target.exists()
    assert target.stat().st_mode == target.parent.stat().st_mode  # not its owner's alone
    with pytest.raises(ZeroDivisionError), whole_directory(target) as work:
        (work / "new").write_text("2")
        raise ZeroDivisionError
    assert [path.name for path in target.iterdir()] == ["old"]
    with whole_directory(target) as work:
        (work / "new").write_text("2")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("number", [28, 122, 27])
@pytest.mark.parametrize("teller", [lambda n: OSError(n, "full"), lambda n: RuntimeError(f"I/O error (os error {n})")])
def test_every_way_of_saying_that_the_disk_is_full_is_understood(number, teller, tmp_path):
    with pytest.raises(DiskFullError) as caught, whole_directory(tmp_path / "x"):
        raise teller(number)
    assert caught.value.code == "disk_full" and not caught.value.users_fault


def test_other_failures_are_not_called_a_full_disk(tmp_path):
    for error in (PermissionError(13, "no"), RuntimeError("os error"), torch.OutOfMemoryError("28")):
        with pytest.raises(type(error)), whole_directory(tmp_path / "x"):
            raise error
    assert list(tmp_path.iterdir()) == []
