"""Downloads survive a broken line, and never leave half a file or a wrong one."""

import hashlib
import http.server
import os
import threading
import time

import pytest

from files import downloads
from files.downloads import download
from files.mistakes import UserError
from files.reading import digest_of

CONTENT = bytes(range(256)) * 40  # 10 kB
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


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


def test_a_part_that_is_whole_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    checksum = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert download(server.url, tmp_path / "file", checksum).read_bytes() == CONTENT
    assert server.requested == [f"bytes={len(CONTENT)}-"] and os.listdir(tmp_path) == ["file"]


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
