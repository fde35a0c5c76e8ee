"""``monofs://`` as fsspec's users see it. Its own abstract tests run in tests/system/test_fsspec_abstract.py."""

import asyncio
import datetime as dt
import io
import os
import pickle
import threading

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.callbacks import Callback

from monofs.fsspec import MonofsFileSystem

MIB = 1 << 20


@pytest.fixture
def door(node, source):
    fs = MonofsFileSystem(node.doors["rpc"], skip_instance_cache=True)
    yield fs
    fs.client.close()


def test_urls_carry_the_master_and_paths_begin_with_a_slash(node, source):
    url = f"monofs://{node.doors['rpc']}/data/small.bin"
    with fsspec.open(url) as file:
        assert file.read() == (source / "small.bin").read_bytes()
    fs, path = fsspec.url_to_fs(url)
    assert isinstance(fs, MonofsFileSystem)
    assert path == "/data/small.bin"
    assert fs.unstrip_protocol(path) == url
    assert fs.unstrip_protocol(url) == url
    assert fsspec.url_to_fs(url)[0] is fs, "one object an address"
    strip = MonofsFileSystem._strip_protocol
    assert strip("monofs:///a/b/") == "/a/b"
    assert strip("monofs://") == strip("monofs://host:1") == strip("/") == strip("") == "/"
    assert strip("a/b") == "/a/b"
    assert strip(["monofs://h:1/a", "/b"]) == ["/a", "/b"]
    kwargs = MonofsFileSystem._get_kwargs_from_urls
    assert kwargs("monofs://h:1/a") == {"masters": "h:1"}
    assert kwargs("monofs://h,k:7/a") == {"masters": "h:19998,k:7"}
    assert kwargs("monofs:///a") == kwargs("/a") == {}
    fs.clear_instance_cache()


def test_the_environment_names_the_master_of_short_urls(node, source, monkeypatch):
    monkeypatch.setenv("MONOFS_MASTERS", node.doors["rpc"])
    with fsspec.open("monofs:///data/deep/side.csv", "rt", skip_instance_cache=True) as file:
        assert file.read() == "a,b\n3,4\n"


def test_info_and_listings_have_what_libraries_ask_for(door, source):
    info = door.info("monofs:///data/medium.bin")
    status = os.stat(source / "medium.bin")
    assert (info["name"], info["type"], info["size"]) == ("/data/medium.bin", "file", status.st_size)
    assert info["mtime"] == pytest.approx(status.st_mtime)
    assert door.modified("/data/medium.bin") == dt.datetime.fromtimestamp(info["mtime"], tz=dt.UTC)
    assert door.created("/data/medium.bin").tzinfo is not None
    assert door.info("/data")["type"] == "directory"
    assert door.info("/")["name"] == "/"
    assert door.size("/data/medium.bin") == status.st_size
    assert door.sizes(["/data/medium.bin", "/data/empty"]) == [status.st_size, 0]
    names = door.ls("/data", detail=False)
    assert "/data/deep" in names
    assert "/data/ünï cödé\nname" in names
    assert [entry["name"] for entry in door.ls("/data")] == names
    assert door.ls("/data/medium.bin", detail=False) == ["/data/medium.bin"]
    assert (door.exists("/data"), door.isfile("/data"), door.isdir("/data")) == (True, False, True)
    assert not door.exists("/data/none")
    for call in (door.info, door.ls, door.cat_file, door.open):
        with pytest.raises(FileNotFoundError):
            call("/data/none")
    with pytest.raises(IsADirectoryError):
        door.open("/data/deep")


def test_walk_find_glob_and_du_see_the_whole_tree(door, source):
    assert door.find("/data/deep/er") == ["/data/deep/er/leaf.csv"]
    assert door.find("/data/deep/er", withdirs=True) == ["/data/deep/er", "/data/deep/er/leaf.csv"]
    assert door.find("/data/deep/side.csv") == ["/data/deep/side.csv"]
    assert door.find("/data/none") == []
    assert "/data/deep/er/leaf.csv" not in door.find("/data/deep", maxdepth=1)
    found = door.find("/data/deep", detail=True)
    assert found["/data/deep/side.csv"]["size"] == 8
    assert door.glob("/data/**/*.csv") == ["/data/deep/er/leaf.csv", "/data/deep/side.csv"]
    assert door.glob("/data/dee*/*.csv") == ["/data/deep/side.csv"]
    assert door.glob("/data/none*") == []
    assert door.glob("/data/small.bin") == ["/data/small.bin"]
    assert door.du("/data/deep/er") == 8
    assert door.du("/data/deep/er", total=False) == {"/data/deep/er/leaf.csv": 8}
    tops = {path: (sorted(dirs), "side.csv" in files) for path, dirs, files in door.walk("/data/deep")}
    assert tops["/data/deep"] == (["er"], True)


def test_bytes_come_by_cat_and_ranges_as_from_any_fsspec(door, source):
    small, medium = (source / "small.bin").read_bytes(), (source / "medium.bin").read_bytes()
    assert door.cat_file("/data/small.bin") == small
    assert door.cat_file("/data/small.bin", 10, 20) == small[10:20]
    assert door.cat_file("/data/small.bin", -10) == small[-10:]
    assert door.cat_file("/data/small.bin", -10, -5) == small[-10:-5]
    assert door.cat_file("/data/small.bin", 5, -5) == small[5:-5]
    assert door.cat_file("/data/small.bin", end=7) == small[:7]
    assert door.cat("/data/small.bin") == small
    assert door.cat(["/data/small.bin"]) == {"/data/small.bin": small}
    assert set(door.cat("/data/deep/*.csv")) == {"/data/deep/side.csv"}
    assert door.cat("/data/deep/er", recursive=True) == {"/data/deep/er/leaf.csv": b"a,b\n1,2\n"}
    with pytest.raises(FileNotFoundError):
        door.cat(["/data/small.bin", "/data/none"])
    assert set(door.cat(["/data/small.bin", "/data/none"], on_error="omit")) == {"/data/small.bin"}
    assert isinstance(door.cat(["/data/small.bin", "/data/none"], on_error="return")["/data/none"], FileNotFoundError)
    got = door.cat_ranges(["/data/small.bin", "/data/none", "/data/medium.bin"], [0, 0, -5], [5, 5, None])
    assert (got[0], got[2]) == (small[:5], medium[-5:])
    assert isinstance(got[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        door.cat_ranges(["/data/none"], 0, 1, on_error="raise")
    assert door.head("/data/small.bin", 5) == small[:5]
    assert door.tail("/data/small.bin", 5) == small[-5:]
    assert door.read_block("/data/deep/side.csv", 1, 5, b"\n") == b"3,4\n"
    assert door.read_text("/data/deep/side.csv") == "a,b\n3,4\n"


def test_files_have_the_attributes_of_fsspecs_buffered_ones(door, source):
    with door.open("/data/lines.txt") as file:
        assert (file.path, file.mode, file.size) == ("/data/lines.txt", "rb", os.stat(source / "lines.txt").st_size)
        assert file.fs is door
        assert file.info()["name"] == file.details["name"] == "/data/lines.txt"
        assert file.full_name == door.unstrip_protocol("/data/lines.txt")
        assert file.readuntil(b"\n") == b"line 0 \xc3\xa9\r\n"
        assert file.readuntil(b"\xc3", blocks=2) == b"line 1 \xc3"
        assert file._fetch_range(5, 6) == b"0"
        copy = pickle.loads(pickle.dumps(file))
        assert copy.tell() == file.tell()
        assert copy.read() == file.read()
        copy.close()
    with door.open("/data/lines.txt", "rt", encoding="utf-8", newline="") as text:
        assert isinstance(text, io.TextIOWrapper)
        assert text.readline() == "line 0 é\r\n"
    (source / "packed.gz").write_bytes(__import__("gzip").compress(b"unpacked"))
    with door.open("/data/packed.gz", compression="infer") as packed:
        assert packed.read() == b"unpacked"


def test_get_copies_trees_and_reports_progress(door, source, tmp_path):
    class Counting(Callback):
        pass

    counting = Counting()
    door.get_file("/data/medium.bin", tmp_path / "new" / "m.bin", callback=counting)
    assert (tmp_path / "new" / "m.bin").read_bytes() == (source / "medium.bin").read_bytes()
    assert counting.size == counting.value == 5 * MIB + 123
    door.get("/data/deep/er", str(tmp_path / "tree"), recursive=True)
    assert (tmp_path / "tree" / "leaf.csv").read_text() == "a,b\n1,2\n"
    target = io.BytesIO()
    door.get_file("/data/small.bin", target)
    assert target.getvalue() == (source / "small.bin").read_bytes()
    with pytest.raises(FileNotFoundError):
        door.get_file("/data/none", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_versions_are_told_apart_by_content(door, source):
    (source / "version.txt").write_bytes(b"one")
    first = door.checksum("/data/version.txt"), door.ukey("/data/version.txt")
    assert first == (door.checksum("/data/version.txt"), door.ukey("/data/version.txt"))
    (source / "version.txt").write_bytes(b"two")
    door.client.stat("/data/version.txt", sync_interval_s=0.0)
    second = door.checksum("/data/version.txt"), door.ukey("/data/version.txt")
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert door.ukey("/data/deep") != door.ukey("/data/deep/er")


def test_the_part_under_no_mount_can_be_changed(door):
    door.makedirs("/door/a/b")
    with pytest.raises(FileExistsError):
        door.makedirs("/door/a/b")
    door.makedirs("/door/a/b", exist_ok=True)
    door.touch("/door/a/b/file")
    door.mv("/door/a", "/door/c")
    assert door.isfile("/door/c/b/file")
    door.rm("/door/c", recursive=True)
    assert not door.exists("/door/c")


def test_listings_are_kept_only_when_asked_for_and_bounded(node, source, door):
    kept = MonofsFileSystem(node.doors["rpc"], use_listings_cache=True, max_paths=5, skip_instance_cache=True)
    try:
        for fs in (door, kept):
            fs.makedirs("/kept/x")
            assert fs.ls("/kept", detail=False) == ["/kept/x"]
            door.client.create("/kept/y")
            assert len(fs.ls("/kept")) == (2 if fs is door else 1)
            fs.invalidate_cache("/kept")
            assert len(fs.ls("/kept")) == len(fs.ls("/kept", refresh=True)) == 2
            door.rm("/kept", recursive=True)
            fs.invalidate_cache()
    finally:
        kept.client.close()


def test_instances_are_equal_by_arguments_and_pickle(node, source):
    one = MonofsFileSystem(node.doors["rpc"])
    assert MonofsFileSystem(node.doors["rpc"]) is one
    assert MonofsFileSystem(node.doors["rpc"], timeout_s=9.0) is not one
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert copy.info("/data/empty")["size"] == 0
    assert MonofsFileSystem.from_json(one.to_json()) == one
    assert one.fsid == MonofsFileSystem(node.doors["rpc"], timeout_s=9.0).fsid
    MonofsFileSystem.clear_instance_cache()


def test_synchronous_use_starts_no_thread(node, source):
    before = set(threading.enumerate())
    fs = MonofsFileSystem(node.doors["rpc"], skip_instance_cache=True)
    fs.ls("/data")
    with fs.open("/data/medium.bin") as file:
        file.read()
    fs.cat_file("/data/small.bin")
    fs.glob("/data/*")
    assert set(threading.enumerate()) == before
    fs.client.close()


def test_asynchronous_methods_answer_as_the_synchronous_ones(node, source):
    async def use():
        fs = MonofsFileSystem(node.doors["rpc"], asynchronous=True, skip_instance_cache=True)
        assert isinstance(fs, AsyncFileSystem)
        assert fs.async_impl
        names = await fs._ls("/data", detail=False)
        infos = await asyncio.gather(*(fs._info(name) for name in names))
        assert [info["name"] for info in infos] == names
        assert await fs._cat_file("/data/small.bin", 5, 10) == (source / "small.bin").read_bytes()[5:10]
        contents = await fs._cat(["/data/small.bin", "/data/deep/side.csv"])
        assert contents["/data/deep/side.csv"] == b"a,b\n3,4\n"
        ranges = await fs._cat_ranges(["/data/small.bin"] * 3, [0, 1, 2], [1, 2, 3], batch_size=1)
        assert b"".join(ranges) == (source / "small.bin").read_bytes()[:3]
        assert await fs._exists("/data/none") is False
        assert await fs._isdir("/data")
        assert await fs._find("/data/deep/er") == ["/data/deep/er/leaf.csv"]
        assert await fs._glob("/data/deep/*.csv") == ["/data/deep/side.csv"]
        assert await fs._du("/data/deep/er") == 8
        walked = [path async for path, _, _ in fs._walk("/data/deep")]
        assert walked == ["/data/deep", "/data/deep/er"]
        with pytest.raises(FileNotFoundError):
            await fs._info("/data/none")
        await fs._makedirs("/async/made")
        await fs._pipe({f"/async/{number}": bytes([number]) for number in range(20)})
        await fs._cp_file("/async/7", "/async/made/7")
        await fs._mv("/async/made", "/async/moved")
        assert await fs._cat_file("/async/moved/7") == b"\x07"
        await fs._rm("/async", recursive=True)
        assert not await fs._exists("/async")
        fs.client.close()

    asyncio.run(use())


def test_a_child_of_fork_goes_on_with_an_inherited_instance(door, source):
    door.cat_file("/data/small.bin")
    asyncio.run(door._info("/data"))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = door.cat_file("/data/small.bin") == (source / "small.bin").read_bytes()
            same = same and asyncio.run(door._info("/data"))["type"] == "directory"
            os.write(writer, b"ok" if same else b"wrong")
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"ok"
    os.waitpid(child, 0)


def test_a_mistyped_storage_option_is_refused_by_name(node):
    with pytest.raises(TypeError, match="no storage option 'timeout': did you mean 'timeout_s'"):
        MonofsFileSystem(node.doors["rpc"], timeout=3, skip_instance_cache=True)
    with pytest.raises(TypeError, match="no storage option 'anon'"):
        fsspec.open("monofs:///x", anon=True, skip_instance_cache=True)
