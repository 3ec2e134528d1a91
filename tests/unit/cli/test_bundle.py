import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from cli.bundle import refuse_existing, refuse_unwritable, unpack, verify
from cli.errors import CliError

CONTENT = {"adapter_model.safetensors": b"weights", "plots/loss.png": b"picture"}


def manifest(files):
    return json.dumps(
        {"files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}}
    ).encode()


def write_bundle(path, files, *extra_members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra_members:
            archive.addfile(member)


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def bundle(tmp_path):
    return tmp_path / "adapter.tar.gz"


def everything_below(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_a_good_bundle_is_unpacked_and_counted(tmp_path, bundle):
    write_bundle(bundle, CONTENT | {"sgg.json": manifest(CONTENT)})
    assert unpack(bundle, tmp_path / "out") == 2
    assert everything_below(tmp_path / "out") == ["adapter_model.safetensors", "plots/loss.png", "sgg.json"]
    assert (tmp_path / "out" / "plots" / "loss.png").read_bytes() == b"picture"


@pytest.mark.parametrize("name", ["../escaped", "/etc/escaped", "plots/../../escaped"])
def test_a_name_that_leaves_the_directory_is_refused_and_nothing_appears(tmp_path, bundle, name):
    write_bundle(bundle, CONTENT | {"sgg.json": manifest(CONTENT), name: b"evil"})
    with pytest.raises(CliError):
        unpack(bundle, tmp_path / "deep" / "out")
    assert everything_below(tmp_path) == ["adapter.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_anything_but_plain_files_is_refused_and_nothing_appears(tmp_path, bundle, kind):
    write_bundle(bundle, CONTENT | {"sgg.json": manifest(CONTENT)}, link("door", "/etc/passwd", kind))
    with pytest.raises(CliError, match="not a plain file"):
        unpack(bundle, tmp_path / "out")
    assert everything_below(tmp_path) == ["adapter.tar.gz"]


def test_a_changed_file_is_named_and_nothing_appears(tmp_path, bundle):
    write_bundle(bundle, CONTENT | {"plots/loss.png": b"other", "sgg.json": manifest(CONTENT)})
    with pytest.raises(CliError, match=r"loss\.png"):
        unpack(bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "sgg.json").write_bytes(manifest(CONTENT))
    with pytest.raises(CliError, match=r"adapter_model\.safetensors is missing"):
        verify(tmp_path)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"files": 3}', b'{"version": 1}'])
def test_a_directory_without_a_usable_manifest_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "sgg.json").write_bytes(content)
    with pytest.raises(CliError, match=r"sgg\.json"):
        verify(tmp_path)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, bundle, keep):
    write_bundle(bundle, CONTENT | {"sgg.json": manifest(CONTENT)})
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(CliError, match="cannot be unpacked"):
        unpack(bundle, tmp_path / "out")


def test_only_new_or_empty_directories_are_written(tmp_path):
    refuse_existing(tmp_path / "new")
    refuse_existing(tmp_path)
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(CliError, match="exists already"):
            refuse_existing(taken)


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_left_there(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "new", tmp_path / "file" / "a" / "b", tmp_path / ("x" * 300)):
        with pytest.raises(CliError, match="Cannot write") as caught:
            refuse_existing(place)
        assert str(place) in caught.value.message and "--out" in caught.value.remedy
    for place in (tmp_path / "file", tmp_path / ("x" * 300)):
        with pytest.raises(CliError, match="Give a place for --checkpoints"):
            refuse_unwritable(place, "--checkpoints")
    refuse_existing(tmp_path / "a" / "b")
    refuse_unwritable(tmp_path / "a" / "b", "--checkpoints")
    refuse_unwritable(tmp_path, "--checkpoints")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_empty_directory_that_cannot_be_replaced_is_refused(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    (tmp_path / "broken").symlink_to("nowhere")
    for link in ("link", "broken"):
        with pytest.raises(CliError, match="exists already"):
            refuse_existing(tmp_path / link)
    monkeypatch.chdir(tmp_path / "here")
    for place in (Path(), tmp_path / "here"):
        with pytest.raises(CliError, match="cannot be replaced") as caught:
            refuse_existing(place)
        assert str(place / "adapter") in caught.value.remedy
