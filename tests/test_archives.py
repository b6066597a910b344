"""Archives: unpacked whole or not at all, never outside of their folder, and never to more than the disk can bear."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zipfile

import pytest
from toys import refused

from files import archives
from files.archives import extract
from files.mistakes import UserError


def make_tar(path, *members):
    """Members: (name, bytes) or a TarInfo."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as package:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                package.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                package.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def make_zip(path, *members):
    with zipfile.ZipFile(path, "w") as package:
        for name, content in members:
            package.writestr(name, content)
    return path


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip"])
def test_an_archive_is_unpacked(tmp_path, name):
    members = [("RACE/test/high/1.txt", b"one"), ("RACE/empty.txt", b""), ("..dots", b"two")]
    archive = (make_zip if name.endswith("zip") else make_tar)(tmp_path / name, *members)
    assert extract(archive, tmp_path / "out") == tmp_path / "out"
    assert tree(tmp_path / "out") == dict(members)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "out"])


def test_a_single_gz_file_is_unpacked_under_its_own_name(tmp_path):
    content = bytes(range(256)) * 40
    with gzip.open(tmp_path / "file.json.gz", "wb") as stream:
        stream.write(content)
    extract(tmp_path / "file.json.gz", tmp_path / "out")
    assert tree(tmp_path / "out") == {"file.json": content}


def test_a_folder_that_exists_keeps_what_it_has(tmp_path):
    out = tmp_path / "out"
    (out / "squad").mkdir(parents=True)
    extract(make_tar(tmp_path / "a.tar", ("RACE/1.txt", b"1")), out)
    assert sorted(os.listdir(out)) == ["RACE", "squad"]
    with pytest.raises(UserError, match="exists already"):
        extract(make_tar(tmp_path / "b.tar", ("new.txt", b""), ("RACE/2.txt", b"2")), out)
    assert tree(out) == {"RACE/1.txt": b"1"}


def test_links_inside_become_copies(tmp_path):
    links = [special("a/soft", tarfile.SYMTYPE, "../b/file"), special("hard", tarfile.LNKTYPE, "b/file")]
    extract(make_tar(tmp_path / "a.tar", ("b/file", b"text"), *links), tmp_path / "out")
    assert tree(tmp_path / "out") == {"b/file": b"text", "a/soft": b"text", "hard": b"text"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_race_as_distributed_is_unpacked(shared_data, tmp_path):
    extract(shared_data / "RACE.tar.gz", tmp_path)
    article = json.loads(next((tmp_path / "RACE" / "test" / "high").glob("*.txt")).read_text())
    assert {"answers", "options", "questions", "article", "id"} <= article.keys()


# Hostile ones

HOSTILE = {
    "absolute": ("/tmp/evil", b""),
    "above": ("../evil", b""),
    "above, later": ("a/b/../../../evil", b""),
    "backslashes": ("..\\evil", b""),
    "drive": ("C:/evil", b""),
}


@pytest.mark.parametrize("kind", ["a.tar.gz", "a.zip"])
@pytest.mark.parametrize("member", HOSTILE.values(), ids=HOSTILE)
def test_a_member_outside_the_folder_is_refused_and_nothing_written(tmp_path, kind, member):
    box = tmp_path / "box"
    box.mkdir()
    archive = (make_zip if kind == "a.zip" else make_tar)(box / kind, ("good.txt", b"good"), member)
    with pytest.raises(UserError, match="leads out of the folder"):
        extract(archive, box / "out")
    assert os.listdir(box) == [kind] and os.listdir(tmp_path) == ["box"]


def test_what_is_made_for_a_few_bytes_each_is_bounded(tmp_path):
    deep = make_tar(tmp_path / "deep.tar.gz", ("/".join("a" * 60), b""))
    with pytest.raises(UserError, match="lies more than 50 folders deep"):
        extract(deep, tmp_path / "out")
    links = make_tar(tmp_path / "links.tar.gz", ("a", b"a"), *(special(f"l{n}", tarfile.LNKTYPE, "a") for n in range(101)))
    with pytest.raises(UserError, match="more than 100 links"):
        extract(links, tmp_path / "out")
    assert not (tmp_path / "out").exists()


HOSTILE_LINKS = {
    "symlink above": special("link", tarfile.SYMTYPE, "../secret"),
    "symlink absolute": special("link", tarfile.SYMTYPE, "/etc/passwd"),
    "symlink from below": special("a/link", tarfile.SYMTYPE, "../../secret"),
    "symlink to itself": special("link", tarfile.SYMTYPE, "link"),
    "symlink to the folder": special("link", tarfile.SYMTYPE, "."),
    "hard link above": special("link", tarfile.LNKTYPE, "../secret"),
    "hard link absolute": special("link", tarfile.LNKTYPE, "/etc/passwd"),
    "hard link to nothing": special("link", tarfile.LNKTYPE, "absent"),
    "pipe": special("pipe", tarfile.FIFOTYPE),
    "device": special("device", tarfile.CHRTYPE),
}


@pytest.mark.parametrize("member", HOSTILE_LINKS.values(), ids=HOSTILE_LINKS)
def test_links_that_lead_outside_and_devices_are_refused(tmp_path, member):
    box = tmp_path / "box"
    box.mkdir()
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(UserError):
        extract(make_tar(box / "a.tar", ("good.txt", b"good"), member), box / "out")
    assert os.listdir(box) == ["a.tar"]


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with pytest.raises(UserError, match="is a link"):
        extract(make_zip(tmp_path / "a.zip", (info, "/etc/passwd")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["bomb.gz", "bomb.tar.gz", "bomb.zip", "header.tar.gz", "many.tar.gz", "sparse.tar"])
def test_an_archive_that_swells_is_refused_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALLOWANCE", 1 << 20)
    path, zeros = tmp_path / name, bytes(20 << 20)
    if name == "bomb.gz":
        path.write_bytes(gzip.compress(zeros))
    elif name == "bomb.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
            package.writestr("a", zeros)
    else:
        with tarfile.open(path, "w:gz" if "gz" in name else "w") as package:
            info = tarfile.TarInfo("a")
            if name == "header.tar.gz":  # a header that is read into memory as a whole
                info.type = b"x"
            if name == "sparse.tar":  # a file of holes
                info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12), "GNU.sparse.major": "0"}
                package.addfile(info)
            elif name == "many.tar.gz":
                for number in range(2_000):
                    info.name = str(number)
                    package.addfile(info)
            else:
                info.size = len(zeros)
                package.addfile(info, io.BytesIO(zeros))
    refused(lambda: extract(path, tmp_path / "out"), name, "times its size")
    assert [left.name for left in tmp_path.iterdir()] == [name]


# Broken ones


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip", "a.txt.gz"])
@pytest.mark.parametrize(("cut", "message"), [(0, "empty one"), (700, "broken archive")])
def test_a_cut_archive_is_a_user_error_and_leaves_nothing(tmp_path, name, cut, message):
    noise = hashlib.shake_256(b"seed").digest(5000)  # does not compress
    if name == "a.txt.gz":
        (tmp_path / name).write_bytes(gzip.compress(noise))
    else:
        (make_zip if name == "a.zip" else make_tar)(tmp_path / name, ("file", noise))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:cut])
    with pytest.raises(UserError, match=message):
        extract(tmp_path / name, tmp_path / "out")
    assert os.listdir(tmp_path) == [name]


def test_an_absent_or_unknown_archive_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such archive"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    (tmp_path / "a.rar").write_text("Rar!")
    with pytest.raises(UserError, match="unknown kind of archive"):
        extract(tmp_path / "a.rar", tmp_path / "out")


def test_a_zip_with_a_nameless_entry_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as package:
        package.writestr(zipfile.ZipInfo(""), b"x")
    refused(lambda: extract(tmp_path / "a.zip", tmp_path / "out"), "a.zip: broken archive (an entry without a name)")


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_are_read_without_bounds_are_refused(tmp_path, packing):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packing) as package:
        package.writestr("a.txt", b"0" * 10_000_000)
    with pytest.raises(UserError, match="packed otherwise"):
        extract(tmp_path / "a.zip", tmp_path / "out")
