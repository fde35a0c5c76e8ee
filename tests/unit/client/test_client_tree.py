"""The namespace through the SDK: looking, mounts, the cache, changes of the part under no mount, errors."""

import os
import traceback

import pytest

import monofs
from monofs.client import FileKind
from monofs.model.errors import AlreadyExists, InvalidArgument, MonofsError, NotEmpty, NotFound, UfsNotFound

MIB = 1 << 20


def test_stat_tells_what_the_store_has(fs, source):
    info = fs.stat("/data/medium.bin")
    status = os.stat(source / "medium.bin")
    assert (info.path, info.name, info.kind) == ("/data/medium.bin", "medium.bin", FileKind.FILE)
    assert (info.size, info.mtime_ns, info.is_file, info.is_dir) == (status.st_size, status.st_mtime_ns, True, False)
    assert info.mtime == pytest.approx(status.st_mtime)
    assert info.content
    assert info.content_id
    assert info.fingerprint.startswith("t:")
    assert info.is_persisted
    top = fs.stat("/data/")
    assert (top.path, top.kind, top.is_dir, top.is_mount, top.content_id) == ("/data", "directory", True, True, "")
    assert fs.stat("/").name == ""
    empty = fs.stat("/data/empty")
    assert (empty.size, empty.content, empty.content_id) == (0, 0, "")


def test_missing_and_misplaced_paths_raise_what_python_programs_expect(fs):
    with pytest.raises(FileNotFoundError) as caught:
        fs.stat("/data/none")
    assert isinstance(caught.value, NotFound)
    assert caught.value.filename == "/data/none"
    assert fs.is_file("/data/small.bin")
    with pytest.raises(NotADirectoryError):
        fs.stat("/data/small.bin/below")
    with pytest.raises(NotADirectoryError):
        list(fs.list("/data/small.bin"))
    with pytest.raises(FileNotFoundError):
        next(fs.names("/none"))
    with pytest.raises(IsADirectoryError):
        fs.open("/data")
    for path in ("relative", "/a//b", "/a/../b", "/" + "n" * 300):
        with pytest.raises(OSError, match=r"path|name"):
            fs.stat(path)
    assert [fs.exists(path) for path in ("/data", "/data/none", "/data/small.bin/below")] == [True, False, False]
    assert [fs.is_file(path) for path in ("/data", "/data/small.bin", "/none")] == [False, True, False]
    assert [fs.is_dir(path) for path in ("/data", "/data/small.bin", "/none")] == [True, False, False]


def test_stat_many_keeps_order_and_puts_errors_in_place(fs):
    paths = ["/data/small.bin", "/data/none", "/data"] * 700
    found = fs.stat_many(paths)
    assert [isinstance(one, FileNotFoundError) for one in found] == [False, True, False] * 700
    assert [one.path for one in found if not isinstance(one, MonofsError)] == ["/data/small.bin", "/data"] * 700
    assert fs.stat_many([]) == []


def test_pages_of_a_listing_join_to_the_whole_of_it(fs):
    names, after = [], b""
    while after is not None:
        page, after = fs.list_page("/data", after, 2)
        assert len(page) <= 2
        names += [info.path for info in page]
    assert names == [info.path for info in fs.list("/data")]
    assert fs.list_page("/data", b"\xff")[0] == []
    with pytest.raises(NotADirectoryError):
        fs.list_page("/data/small.bin")


def test_listings_come_page_by_page_with_attributes(fs, source):
    (source / "wide").mkdir(exist_ok=True)
    for number in range(2300):
        (source / "wide" / f"f{number:05}").write_bytes(b"x" * (number % 7))
    found = list(fs.list("/data/wide", sync_interval_s=0.0))
    assert [info.path for info in found] == [f"/data/wide/f{number:05}" for number in range(2300)]
    assert [info.size for info in found] == [number % 7 for number in range(2300)]
    assert list(fs.names("/data/wide")) == [info.name for info in found]
    assert "deep/" in list(fs.names("/data"))
    assert {info.name for info in fs.list("/data")} >= {"deep", "empty", "ünï cödé\nname"}
    assert all(not info.name.endswith("/") for info in fs.list("/data"))
    assert [info.name for info in fs.list("/") if info.is_mount] == ["data"]


def test_walk_gives_directories_before_what_they_hold_at_any_depth(fs, source):
    assert [info.path for info in fs.walk("/data/deep/er")] == ["/data/deep/er/leaf.csv"]
    assert [info.path for info in fs.walk("/data/small.bin")] == ["/data/small.bin"]
    paths = [info.path for info in fs.walk("/data/deep")]
    assert paths.index("/data/deep/er") < paths.index("/data/deep/er/leaf.csv")
    path = "/cave"
    for _ in range(400):
        path += "/d"
    fs.make_directory(path, parents=True)
    assert sum(1 for _ in fs.walk("/cave")) == 400


def test_the_part_under_no_mount_can_be_changed(fs):
    with pytest.raises(FileNotFoundError):
        fs.make_directory("/made/a/b")
    assert fs.make_directory("/made/a/b", parents=True, mode=0o700).mode == 0o700
    with pytest.raises(FileExistsError):
        fs.make_directory("/made/a/b")
    fs.make_directory("/made/a/b", exist_ok=True)
    assert fs.create("/made/a/b/file").size == 0
    with pytest.raises(AlreadyExists):
        fs.create("/made/a/b/file")
    with fs.open("/made/a/b/file") as file:
        assert file.read() == b""
        assert file.readline() == b""
    fs.rename("/made/a", "/made/c")
    assert fs.is_file("/made/c/b/file")
    with pytest.raises(NotEmpty):
        fs.delete("/made/c")
    fs.delete("/made/c/b/file")
    assert not fs.exists("/made/c/b/file")


def test_mounts_are_added_listed_updated_tested_and_removed(fs, tmp_path):
    (tmp_path / "f").write_bytes(b"mounted")
    assert fs.mount_add("/dry", f"file://{tmp_path}", dry_run=True).path == "/dry"
    assert not fs.exists("/dry")
    added = fs.mount_add("/m", f"file://{tmp_path}", readonly=True, sync_interval_s=5.0)
    assert (added.path, added.uri, added.readonly) == ("/m", f"file://{tmp_path}", True)
    with pytest.raises(FileExistsError):
        fs.mount_add("/m", f"file://{tmp_path}")
    assert [mount.path for mount in fs.mount_list() if mount.path == "/m"] == ["/m"]
    assert fs.mount_update("/m", readonly=False).readonly is False
    assert fs.mount_test("/m").state == "ok"
    assert fs.read("/m/f") == b"mounted"
    fs.mount_remove("/m")
    assert not fs.exists("/m/f")
    with pytest.raises(FileNotFoundError):
        fs.mount_remove("/m")
    with pytest.raises(OSError, match="nowhere") as caught:
        fs.mount_add("/n", "file:///nowhere/at/all")
    assert isinstance(caught.value, MonofsError)
    assert not isinstance(caught.value, UfsNotFound)


def test_load_warms_everything_below_and_counts(fs, source):
    lake = source / "lake"
    (lake / "part").mkdir(parents=True)
    for number in range(300):
        (lake / "part" / f"p{number}").write_bytes(b"%d" % number * 1000)
    (lake / "big.bin").write_bytes(os.urandom(3 * MIB))
    (lake / "none").write_bytes(b"")
    seen = []
    result = fs.load("/data/lake", progress=seen.append)
    total = sum(path.stat().st_size for path in lake.rglob("*") if path.is_file())
    assert (result.state, result.done, result.total, result.failed) == ("done", 302, 302, 0)
    assert (result.bytes_done, result.counts["fetched_bytes"]) == (total, total)
    assert seen[-1] == result
    assert [job.bytes_done for job in seen] == sorted(job.bytes_done for job in seen)
    again = fs.load("/data/lake/part")
    assert (again.done, again.counts.get("fetched_bytes", 0)) == (300, 0)
    assert fs.load("/data/lake", metadata_only=True).bytes_done == 0
    with pytest.raises(FileNotFoundError):
        fs.load("/data/nothing")
    groups = fs.cached(["/data/lake/big.bin", "/data/lake/none"])
    assert [group.bytes for group in groups["/data/lake/big.bin"]] == [3 * MIB]
    assert groups["/data/lake/none"] == []
    freed = fs.free("/data/lake", recursive=True)
    assert freed.files >= 301
    assert fs.load("/data/lake/big.bin").counts["fetched_bytes"] == 3 * MIB


def test_pins_are_set_and_lifted(fs):
    fs.set_pin("/data/small.bin")
    assert fs.stat("/data/small.bin").pinned
    fs.set_pin("/data/small.bin", pinned=False)
    assert not fs.stat("/data/small.bin").pinned


def test_administration_answers(fs):
    assert fs.ping().role == "master"
    assert fs.report()["cluster"]["leads"] is True
    assert {setting.name for setting in fs.conf()} >= {"master.port", "worker.quota"}
    assert all(findings == [] for findings in fs.fsck().checks.values())
    assert len(fs.cluster().workers) == 1
    address, status = next(iter(fs.worker_status().items()))
    assert status.tiers
    assert address == fs.cluster().workers[0].address
    assert fs.verify()[address].bad == []
    assert fs.why("/data/small.bin")["mount"] == "/data"


def test_a_closed_file_system_says_so(node, source):
    fs = monofs.connect(node.doors["rpc"])
    with fs.open("/data/groups.bin") as file:
        fs.close()
        for call in (lambda: fs.stat("/"), lambda: fs.read("/data/small.bin"), lambda: file.read(10)):
            with pytest.raises(ValueError, match="closed"):
                call()
    fs.close()


def test_options_are_checked_and_taken_from_the_environment(node, monkeypatch, tmp_path):
    monkeypatch.setenv("MONOFS_MASTERS", node.doors["rpc"])
    with monofs.connect() as fs:
        assert fs.exists("/")
        assert node.doors["rpc"] in repr(fs)
    for wrong in ({"read_type": "SOMETIMES"}, {"timeout_s": 0}, {"cluster_secret_file": str(tmp_path / "none")}):
        with pytest.raises(InvalidArgument):
            monofs.connect(**wrong)


def test_the_cluster_secret_is_shown_when_given(node):
    secret = os.path.join(node.home, "cluster.secret")
    with monofs.connect(node.doors["rpc"], cluster_secret_file=secret) as fs:
        assert fs.exists("/")
    wrong = os.path.join(node.home, "wrong.secret")
    with open(wrong, "w") as file:
        file.write("not the secret of this cluster")
    with pytest.raises(PermissionError):
        monofs.connect(node.doors["rpc"], cluster_secret_file=wrong)


def test_a_file_shows_itself_on_one_line(fs):
    shown = repr(fs.stat("/data/small.bin"))
    assert shown.startswith("FileInfo('/data/small.bin', file, size=70001, mtime=20")
    assert len(shown) < 120
    assert repr(fs.stat("/")).startswith("FileInfo('/', directory, size=0, mtime=")


@pytest.mark.parametrize(
    "given", [{"timeout_s": "3"}, {"timeout_s": True}, {"sync_interval_s": "60"}, {"timeout_s": None}]
)
def test_a_duration_that_is_no_number_is_refused_by_name(given):
    (name,) = given
    with pytest.raises(InvalidArgument, match=f"{name} is a number of seconds"):
        monofs.connect("127.0.0.1:1", **given)


def test_an_expected_error_carries_no_frames_of_the_client_itself(fs):
    for ask in (fs.stat, fs.open, fs.read, lambda path: list(fs.list(path))):
        with pytest.raises(FileNotFoundError) as caught:
            ask("/data/none")
        files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert len(files) <= 4
        assert not [file for file in files if file.endswith(("session.py", "sync.py", "conversation.py"))]
