"""Download from a loopback server: resumed, verified, unpacked by list (rows 30 and 31 of the bad-input table)."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from geomol.data.archive import extract_members
from geomol.data.download import Pin, fetch
from geomol.data.sources import SOURCES, Source, get
from geomol.errors import DataError, GeomolWarning, OutputError, SecurityError

DATA = np.random.default_rng(0).bytes(700_000)
SHA256, MD5 = hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()
PINNED = Pin(len(DATA), SHA256, MD5)


class Handler(BaseHTTPRequestHandler):
    """Serves `server.body`; cuts the first `server.cuts` answers short; ranges unless `server.ranges` is off."""

    def do_GET(self) -> None:
        server = self.server
        body, start = server.body, 0
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if self.path != "/file":
            self.send_error(404)
            return
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            self.wfile.write(body[start : start + 100_000])
            self.close_connection = True
            return
        self.wfile.write(body[start:])

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.cuts, server.ranges, server.asked = DATA, 0, True, []
    server.url = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_arrives_verified_and_is_not_fetched_twice(server, tmp_path):
    seen: list[tuple[int, int | None]] = []
    target = fetch((server.url,), tmp_path / "new" / "file", PINNED, progress=lambda *state: seen.append(state))
    assert target.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert sorted(path.name for path in target.parent.iterdir()) == ["file", "file.sha256"]
    fetch((server.url,), target, PINNED)
    assert server.asked == [None]


def test_a_cut_connection_is_continued_where_it_stopped(server, tmp_path):
    server.cuts = 2
    assert fetch((server.url,), tmp_path / "file", PINNED).read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_call_continues_the_part_file(server, tmp_path):
    server.cuts = 1
    with pytest.raises(DataError, match=r"the download failed.*100000 of 700000 bytes; try again"):
        fetch((server.url,), tmp_path / "file", PINNED, attempts=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file.part"]
    assert fetch((server.url,), tmp_path / "file", PINNED).read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_without_ranges_is_read_from_the_start(server, tmp_path):
    server.cuts, server.ranges = 1, False
    assert fetch((server.url,), tmp_path / "file", PINNED).read_bytes() == DATA


def test_a_part_file_of_another_version_is_thrown_away_once(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    assert fetch((server.url,), tmp_path / "file", PINNED).read_bytes() == DATA
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("length", [len(DATA), len(DATA) + 5])
def test_a_complete_or_too_long_part_file_is_judged_without_the_network(server, tmp_path, length):
    (tmp_path / "file.part").write_bytes((DATA + b"x" * 5)[:length])
    assert fetch((server.url,), tmp_path / "file", PINNED).read_bytes() == DATA
    assert len(server.asked) == (0 if length == len(DATA) else 1)


def test_the_mirror_is_asked_when_the_first_server_fails(server, tmp_path):
    urls = (server.url.replace("/file", "/gone"), server.url)
    assert fetch(urls, tmp_path / "file", PINNED).read_bytes() == DATA


@pytest.mark.parametrize("pin", [Pin(sha256="0" * 64), Pin(md5="0" * 32)])
def test_row_30_wrong_hash_shows_both_and_leaves_nothing(server, tmp_path, pin):
    expected, found = (pin.sha256, SHA256) if pin.sha256 else (pin.md5, MD5)
    with pytest.raises(DataError, match=rf"wrong (sha256|md5) checksum, the file is not used.*{expected}.*{found}"):
        fetch((server.url,), tmp_path / "file", pin)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "message"), [(len(DATA) + 1, "700001"), (len(DATA) - 1, "at most 699999 bytes")])
def test_row_30_wrong_size_shows_both(server, tmp_path, size, message):
    with pytest.raises(DataError, match=message):
        fetch((server.url,), tmp_path / "file", Pin(size=size), attempts=2)
    assert not (tmp_path / "file").exists()


def test_row_30_a_file_that_changed_on_disk_is_refused(server, tmp_path):
    with pytest.warns(GeomolWarning, match=rf"no SHA-256 is published \(nothing to compare with\); recorded {SHA256}"):
        target = fetch((server.url,), tmp_path / "file", Pin())
    target.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(DataError, match=rf"wrong sha256.*expected {SHA256}"):
        fetch((server.url,), target, Pin())


def test_row_30_an_unreachable_server_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="the download failed"):
        fetch(("http://127.0.0.1:9/file",), tmp_path / "file", Pin(), attempts=2)


def test_other_schemes_and_unwritable_targets_are_refused(server, tmp_path):
    with pytest.raises(SecurityError, match="only http and https"):
        fetch(("file:///etc/hostname",), tmp_path / "file", Pin())
    (tmp_path / "taken").write_text("a file, no folder")
    with pytest.raises(OutputError, match="cannot write the download"):
        fetch((server.url,), tmp_path / "taken" / "file", PINNED)


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:bz2") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_only_the_listed_members_are_extracted(tmp_path):
    archive = tmp_path / "a.tar.bz2"
    archive.write_bytes(tar_of((entry("d", tarfile.DIRTYPE), b""), (entry("d/one"), b"1"), (entry("./d/two"), b"22")))
    extract_members(archive, {"d/two": tmp_path / "out" / "two"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]
    assert (tmp_path / "out" / "two").read_bytes() == b"22"


@pytest.mark.parametrize(
    "evil",
    [
        entry("../escape"),
        entry("d/../../escape"),
        entry("/absolute"),
        entry("..\\escape"),
        entry("C:/escape"),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.LNKTYPE, "d/one"),
        entry("device", tarfile.CHRTYPE),
        entry("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
@pytest.mark.parametrize("last", [True, False])
def test_row_31_unsafe_members_stop_everything(tmp_path, evil, last):
    members = [(entry("d/one"), b"1"), (evil, b"")]
    archive = tmp_path / "a.tar.bz2"
    archive.write_bytes(tar_of(*(members if last else members[::-1])))
    with pytest.raises(SecurityError, match=r"nothing was extracted|leaves the archive"):
        extract_members(archive, {"d/one": tmp_path / "out" / "one"})
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.bz2", "out"]


def test_row_31_large_doubled_missing_and_damaged_members(tmp_path):
    archive, wanted = tmp_path / "a.tar.bz2", {"d/one": tmp_path / "out" / "one"}
    whole = tar_of((entry("d/one"), b"1" * 5000))
    archive.write_bytes(whole)
    with pytest.raises(SecurityError, match="member is too large, expected at most 100 bytes, got 5000"):
        extract_members(archive, wanted, max_member=100)
    archive.write_bytes(tar_of((entry("d/one"), b"1"), (entry("d/one"), b"2")))
    with pytest.raises(SecurityError, match="occurs twice"):
        extract_members(archive, wanted)
    archive.write_bytes(tar_of((entry("d/two"), b"1")))
    with pytest.raises(DataError, match="the archive lacks a file, expected d/one"):
        extract_members(archive, wanted)
    for damaged in (whole[: len(whole) // 2], b"", b"no archive at all", whole[:60] + b"\xff" * 20 + whole[80:]):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot be read|lacks a file"):
            extract_members(archive, wanted)
    assert list((tmp_path / "out").iterdir()) == []


def test_get_downloads_unpacks_and_rests(server, tmp_path):
    server.body = tar_of((entry("set/data/x.npz"), b"data"), (entry("set/readme"), b"text"))
    source = Source(
        name="set/x",
        urls=(server.url,),
        file="set/set.tar.bz2",
        pin=Pin(sha256=hashlib.sha256(server.body).hexdigest()),
        members={"set/data/x.npz": "set/x.npz"},
        result="set/x.npz",
        units="eV",
        licence="",
        cite="",
    )
    for _ in range(2):
        path = get("set/x", root=tmp_path, sources={"set/x": source})
        assert path == tmp_path / "set" / "x.npz"
        assert path.read_bytes() == b"data"
    assert server.asked == [None]
    assert (tmp_path / "set" / "x.npz.sha256").read_text().split() == [hashlib.sha256(b"data").hexdigest(), "x.npz"]
    with pytest.raises(DataError, match=r'no source named "set/y"; did you mean "set/x"'):
        get("set/y", root=tmp_path, sources={"set/x": source})


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_complete(name):
    source = SOURCES[name]
    assert all(url.startswith(("https://", "http://")) for url in source.urls)
    assert source.cite
    paths: list[str] = [source.file, source.result, *source.members.values()]
    assert not any(Path(path).is_absolute() or ".." in path for path in paths)
    for digest, length in ((source.pin.sha256, 64), (source.pin.md5, 32)):
        assert digest is None or (len(digest) == length and int(digest, 16) > 0)
