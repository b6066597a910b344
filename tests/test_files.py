"""Files: whole or not at all; downloads that survive a broken line; archives that cannot write outside their folder."""

import gzip
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import time
import zipfile

import pytest

from files import downloads
from files.archives import extract
from files.downloads import download
from files.mistakes import UserError
from files.reading import digest_of, read_json, read_text
from files.writing import atomic_write, write_json

CONTENT = bytes(range(256)) * 40  # 10 kB
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


# -- Reading and writing -----------------------------------------------------------------------------------------------


def test_atomic_write_leaves_the_old_file_when_the_block_raises(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path, "w") as stream:
        stream.write("half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_atomic_write_makes_the_folder_and_shows_the_file_only_when_done(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path, "w") as stream:
        stream.write("naïve")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "naïve"
    assert os.listdir(path.parent) == ["file.txt"]


def test_atomic_write_below_a_file_or_onto_a_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "x"):
        pass
    with pytest.raises(UserError, match="is a folder"), atomic_write("."):
        pass
    with pytest.raises(UserError, match="is a folder"), atomic_write(tmp_path):
        pass


def test_json_comes_back_as_it_was_written(tmp_path):
    value = {"text": "“Zürich” 東京", "list": [1, 2.5, None]}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
    assert "東京" in (tmp_path / "file.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b" \n", "empty file"),
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b'{"a": "caf\xe9"}', "not UTF-8 at byte 10"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_read_json_names_the_file_and_the_fault(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_reading_an_absent_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_text(tmp_path / "absent")


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "file.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "file.json") == [1]


# -- Downloads ---------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` at /file. ``breaks``: after how many bytes each of the next answers ends too early."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.breaks, self.status, self.modified = CONTENT, True, [], 200, None
        self.requested = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_port}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requested.append(wanted)
        if self.path != "/file" or server.status != 200:
            return self.send_error(404 if self.path != "/file" else server.status)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start and start >= len(server.content):
            return self.send_error(416)
        body = server.content[start:]
        self.send_response(206 if wanted and server.ranges else 200)
        if wanted and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.modified:
            self.send_header("Last-Modified", self.date_time_string(server.modified))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_download_arrives_whole_and_leaves_nothing_beside_it(server, tmp_path):
    path = tmp_path / "new" / "file"
    assert download(server.url, path, SHA256) == path
    assert path.read_bytes() == CONTENT and digest_of(path) == SHA256.partition(":")[2]
    assert os.listdir(path.parent) == ["file"]


def test_an_empty_file_can_be_downloaded(server, tmp_path):
    server.content = b""
    assert download(server.url, tmp_path / "file").read_bytes() == b""


def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    server.breaks = [5000, 1000]
    assert download(server.url, tmp_path / "file", SHA256).read_bytes() == CONTENT
    assert server.requested == [None, "bytes=5000-", "bytes=6000-"]


def test_without_range_support_a_broken_download_starts_over(server, tmp_path):
    server.ranges, server.breaks = False, [5000]
    assert download(server.url, tmp_path / "file", SHA256).read_bytes() == CONTENT
    assert server.requested == [None, "bytes=5000-"]


def test_a_later_run_continues_what_an_earlier_one_left(server, tmp_path):
    server.breaks = [1000] * downloads.TRIES
    with pytest.raises(UserError, match=f"broke after {1000 * downloads.TRIES} of {len(CONTENT)} bytes"):
        download(server.url, tmp_path / "file")
    assert os.listdir(tmp_path) == ["file.part"]
    server.requested.clear()
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT
    assert server.requested == [f"bytes={1000 * downloads.TRIES}-"]


@pytest.mark.parametrize("length", [100, len(CONTENT), len(CONTENT) + 1])
def test_a_stale_part_is_replaced(server, tmp_path, length):
    (tmp_path / "file.part").write_bytes(b"x" * length)
    assert download(server.url, tmp_path / "file", SHA256).read_bytes() == CONTENT


def test_a_part_older_than_the_file_on_the_server_is_not_continued(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 100)
    server.modified = time.time() + 60
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT
    (tmp_path / "file.part").write_bytes(CONTENT[:100])
    server.modified = time.time() - 60
    server.requested.clear()
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT
    assert server.requested == ["bytes=100-"]


def test_a_wrong_checksum_names_both_and_removes_the_bytes(server, tmp_path):
    wrong = "0" * 64
    with pytest.raises(UserError) as caught:
        download(server.url, tmp_path / "file", f"sha256:{wrong}")
    assert SHA256.partition(":")[2] in str(caught.value) and wrong in str(caught.value) and server.url in str(caught.value)
    assert os.listdir(tmp_path) == []
    assert len(server.requested) == 1


def test_a_failed_download_leaves_the_old_file(server, tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError):
        download(server.url, tmp_path / "file", "sha256:" + "0" * 64)
    assert (tmp_path / "file").read_text() == "old"


def test_an_absent_page_names_the_url_and_where_to_put_the_file(server, tmp_path):
    with pytest.raises(UserError, match="HTTP 404") as caught:
        download(server.url + "-absent", tmp_path / "file")
    assert server.url + "-absent" in str(caught.value) and f"put it at {tmp_path / 'file'}" in str(caught.value)
    assert len(server.requested) == 1  # asked once: it will not appear by asking again


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = 503
    with pytest.raises(UserError, match="HTTP 503"):
        download(server.url, tmp_path / "file")
    assert len(server.requested) == downloads.TRIES


def test_no_server_or_no_url_is_a_user_error(server, tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/file"
    with pytest.raises(UserError, match="refused"):
        download(url, tmp_path / "file")
    with pytest.raises(UserError, match="unknown url type"):
        download("not a url", tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_no_reason_to_ask_again(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        download(server.url, tmp_path / "file" / "below")
    assert len(server.requested) <= 1


# -- Archives ----------------------------------------------------------------------------------------------------------


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
    with gzip.open(tmp_path / "file.json.gz", "wb") as stream:
        stream.write(CONTENT)
    extract(tmp_path / "file.json.gz", tmp_path / "out")
    assert tree(tmp_path / "out") == {"file.json": CONTENT}


def test_a_folder_that_exists_keeps_what_it_has(tmp_path):
    out = tmp_path / "out"
    (out / "squad").mkdir(parents=True)
    extract(make_tar(tmp_path / "a.tar", ("RACE/1.txt", b"1")), out)
    assert sorted(os.listdir(out)) == ["RACE", "squad"]
    with pytest.raises(UserError, match="exists already"):
        extract(make_tar(tmp_path / "b.tar", ("new.txt", b""), ("RACE/2.txt", b"2")), out)
    assert tree(out) == {"RACE/1.txt": b"1"}


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


def test_links_inside_become_copies(tmp_path):
    links = [special("a/soft", tarfile.SYMTYPE, "../b/file"), special("hard", tarfile.LNKTYPE, "b/file")]
    extract(make_tar(tmp_path / "a.tar", ("b/file", b"text"), *links), tmp_path / "out")
    assert tree(tmp_path / "out") == {"b/file": b"text", "a/soft": b"text", "hard": b"text"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with pytest.raises(UserError, match="is a link"):
        extract(make_zip(tmp_path / "a.zip", (info, "/etc/passwd")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


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


def test_race_as_distributed_is_unpacked(shared_data, tmp_path):
    extract(shared_data / "RACE.tar.gz", tmp_path)
    article = json.loads(next((tmp_path / "RACE" / "test" / "high").glob("*.txt")).read_text())
    assert {"answers", "options", "questions", "article", "id"} <= article.keys()
