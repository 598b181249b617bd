"""Archives: self-contained, anonymous, and unpacked inside one folder or not at all."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from sam3_runtime.core.errors import RecordError
from sam3_runtime.core.files import link_relatively
from sam3_runtime.deploy.pack import ArchiveError, accuracy_path, pack, unpack
from sam3_runtime.families.sam3.parts import PART_NAMES
from tests.engine_records import write_engine
from tests.records.test_records import config

NAME = "b8_q50_r672"


@pytest.fixture
def variant(tmp_path: Path) -> Path:
    """A variant whose engines are links into a store, as a build leaves it."""
    directory = tmp_path / "engines" / NAME
    store = tmp_path / "engines/store"
    store.mkdir(parents=True)
    for part in PART_NAMES:
        write_engine(store, part, f"engine {part}".encode())
        for suffix in (".engine", ".engine.json"):
            link_relatively(directory / f"{part}{suffix}", store / f"{part}{suffix}")
    (directory / "tokenizer.json").write_text("{}")
    config().write(directory / "config.json")
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference/r672.safetensors").write_bytes(b"reference")
    return directory


def test_what_is_packed_is_unpacked_without_links(variant: Path, tmp_path: Path) -> None:
    size = pack(variant, tmp_path / "out.tar")
    assert size == (tmp_path / "out.tar").stat().st_size
    (tmp_path / "there").mkdir()
    target = unpack(tmp_path / "out.tar", tmp_path / "there")
    assert target == tmp_path / "there" / NAME
    assert not any(path.is_symlink() for path in target.iterdir())
    assert (target / "decoder.engine").read_text() == "engine decoder"
    assert (target / "reference.safetensors").read_bytes() == b"reference"
    assert "SAM License" in (target / "NOTICE").read_text()


def test_the_reference_of_a_data_set_travels_too(variant: Path, tmp_path: Path) -> None:
    assert accuracy_path(variant, 672) is None
    (tmp_path / "reference/r672_accuracy.safetensors").write_bytes(b"accuracy")
    pack(variant, tmp_path / "out.tar")
    (tmp_path / "there").mkdir()
    target = unpack(tmp_path / "out.tar", tmp_path / "there")
    assert accuracy_path(target, 672) == target / "accuracy.safetensors"
    assert (target / "accuracy.safetensors").read_bytes() == b"accuracy"


def test_an_archive_names_nobody(variant: Path, tmp_path: Path) -> None:
    pack(variant, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert {(member.uname, member.uid) for member in tar} == {("", 0)}


def test_a_damaged_engine_is_not_packed(variant: Path, tmp_path: Path) -> None:
    (variant / "decoder.engine").resolve().write_text("engine")
    with pytest.raises(RecordError, match=r"decoder\.engine is cut off"):
        pack(variant, tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()


def test_without_a_reference_nothing_is_packed(variant: Path, tmp_path: Path) -> None:
    (tmp_path / "reference/r672.safetensors").unlink()
    with pytest.raises(RecordError, match=r"reference/r672.safetensors"):
        pack(variant, tmp_path / "out.tar")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "v/../../evil", "v/deep/evil", "evil", "v\\..\\evil", "C:/evil"]
)
def test_a_path_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        for member in ("v/config.json", name):
            info = tarfile.TarInfo(member)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "there").mkdir()
    with pytest.raises(ArchiveError, match="nothing was unpacked"):
        unpack(archive, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("v/config.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ArchiveError, match="not a plain file"):
        unpack(archive, tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\0" * 100])
def test_what_is_no_archive_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"damaged|folders"):
        unpack(tmp_path / "x.tar", tmp_path)


@pytest.mark.parametrize("kept", [0.2, 0.35, 0.5, 0.65, 0.8])
def test_a_truncated_archive_leaves_nothing(variant: Path, tmp_path: Path, kept: float) -> None:
    pack(variant, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        end = max(member.offset_data + member.size for member in tar if member.name.endswith(".engine"))
    data = (tmp_path / "out.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: int(end * kept)])
    (tmp_path / "there").mkdir()
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(tmp_path / "cut.tar", tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_nothing_is_overwritten(variant: Path, tmp_path: Path) -> None:
    pack(variant, tmp_path / "out.tar")
    (tmp_path / "there" / NAME).mkdir(parents=True)
    with pytest.raises(ArchiveError, match="already exists"):
        unpack(tmp_path / "out.tar", tmp_path / "there")
