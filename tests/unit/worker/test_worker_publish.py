import csv
import io
import os
import tarfile
from pathlib import Path

from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_store.attempts import Lease
from sgg_store.local_objects import LocalObjectStore
from worker.publish import COLUMNS, publish, write_bundle, write_metrics

LEASE = Lease("ftjob-1", "proj-1", 2, "secret", "me")


def step(number: int, **figures: object) -> StepMetrics:
    defaults = {
        "step": number,
        "total_steps": 4,
        "epoch": number / 4,
        "train_loss": 0.5,
        "train_accuracy": 0.25,
        "learning_rate": 1e-4,
        "gradient_norm": 2.0,
        "seconds": 0.1,
        "tokens": 12,
    }
    return StepMetrics.model_validate(defaults | figures)


def fill(directory: Path, names: list[str]) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)


def test_bundles_of_equal_files_are_equal_whatever_their_times_modes_and_order(tmp_path: Path) -> None:
    names = ["sgg.json", "plots/loss.png", "adapter.safetensors"]
    fill(tmp_path / "a", names)
    fill(tmp_path / "b", names[::-1])
    for path in (tmp_path / "b").rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    write_bundle(tmp_path / "a", tmp_path / "a.tar.gz")
    write_bundle(tmp_path / "b", tmp_path / "b-with-another-name.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b-with-another-name.tar.gz").read_bytes()


def test_bundle_holds_the_files_sorted_and_without_owner_or_time(tmp_path: Path) -> None:
    fill(tmp_path / "a", ["sgg.json", "plots/loss.png"])
    write_bundle(tmp_path / "a", tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["plots/loss.png", "sgg.json"]
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
        content = archive.extractfile("sgg.json")
        assert content is not None and content.read() == b"sgg.json" * 1000


def test_metrics_table_has_one_row_for_each_step_with_both_kinds_of_figures() -> None:
    stream = io.StringIO()
    evaluation = EvaluationMetrics(step=2, valid_loss=0.75, valid_accuracy=0.5, valid_macro_f1=0.4, examples=8)
    write_metrics([step(1), step(2, clipped=True, reference_cosine=0.1), evaluation], stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert stream.getvalue().startswith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,")
    assert tuple(rows[0]) == COLUMNS
    assert [row["step"] for row in rows] == ["1", "2"]
    assert rows[0]["valid_loss"] == "" and rows[0]["reference_cosine"] == "" and rows[0]["clipped"] == "0"
    assert rows[1]["valid_loss"] == "0.75" and rows[1]["valid_mean_token_accuracy"] == "0.5"
    assert rows[1]["reference_cosine"] == "0.1" and rows[1]["clipped"] == "1" and rows[1]["train_loss"] == "0.5"


def test_metrics_table_holds_numbers_and_nothing_else_so_no_program_takes_a_cell_for_a_formula() -> None:
    stream = io.StringIO()
    evaluation = EvaluationMetrics(step=1, valid_loss=0.75, valid_accuracy=0.5, valid_macro_f1=0.4, examples=8)
    write_metrics([step(1, reference_cosine=-0.5), evaluation], stream)
    header, *rows = csv.reader(io.StringIO(stream.getvalue()))
    assert all(name.isidentifier() for name in header)
    cells = [cell for row in rows for cell in row if cell]
    assert [float(cell) for cell in cells] and all(cell[0] in "-0123456789" for cell in cells)


def test_metrics_table_ends_in_the_loss_of_a_step_without_evaluation() -> None:
    stream = io.StringIO()
    write_metrics([EvaluationMetrics(step=1, valid_loss=0.5, examples=3)], stream)
    assert stream.getvalue().splitlines()[1].startswith("1,,,0.5,,")


def test_results_lie_under_the_attempts_own_folder_with_their_hashes(tmp_path: Path) -> None:
    import hashlib

    output, workspace = tmp_path / "output", tmp_path / "work"
    fill(output, ["sgg.json"])
    workspace.mkdir()
    objects = LocalObjectStore(tmp_path / "objects")
    table, bundle = publish(objects, LEASE, [step(1)], output, workspace)
    assert (table.filename, bundle.filename) == ("metrics.csv", "adapter.tar.gz")
    for file in (table, bundle):
        assert file.object_key.startswith("jobs/ftjob-1/attempts/2-secret/")
        content = b"".join(objects.open(file.object_key))
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)
