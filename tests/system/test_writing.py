"""Writing through the SDK and fsspec to real stores: a bucket, a directory, and the part under no mount; the stores are looked at behind it."""

import io
import os
import random
import threading

import fsspec
import msgspec
import pytest

from monofs.fsspec import MonofsFileSystem
from monofs.model.attributes import Attributes, decode_attributes, etag_of
from monofs.model.errors import AlreadyExists, ConditionFailed, CrossMount, InvalidArgument, NotEmpty, NotFound
from monofs.model.inode import decode_inode
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.sync import Pool
from monofs.testing.masters import wait_until
from monofs.testing.nodes import ServedNode

MIB = 1 << 20


class Place:
    """A mounted store: ``at`` in the tree, and what it holds."""

    def __init__(self, at, keys, get, put):
        self.at, self._keys, self.get, self.put = at, keys, get, put

    def below(self, key=""):
        """Keys of files, in order."""
        return [each for each in self._keys() if each.startswith(key) and not each.endswith("/")]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with ServedNode(str(tmp_path_factory.mktemp("writing") / "home")) as served:
        yield served
        MonofsFileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def bucket_place(node, make_bucket):
    bucket = make_bucket()
    with node.connect() as client:
        client.mount_add("/bucket", bucket.uri, bucket.options)
    return Place("/bucket", lambda: bucket.keys(), bucket.get, bucket.put)


@pytest.fixture(scope="module")
def local_place(node, tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    with node.connect() as client:
        client.mount_add("/local", f"file://{directory}", sync_interval_s=0.0)

    def keys():
        return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())

    return Place(
        "/local",
        keys,
        lambda key: (directory / key).read_bytes(),
        lambda key, data: (directory / key).write_bytes(data),
    )


@pytest.fixture(params=["bucket", "local"])
def place(request, bucket_place, local_place):
    return bucket_place if request.param == "bucket" else local_place


@pytest.fixture
def fs(node):
    with node.connect() as connected:
        yield connected


@pytest.fixture
def door(node):
    fs = MonofsFileSystem(node.doors["rpc"], skip_instance_cache=True)
    yield fs
    fs.client.close()


@pytest.fixture
def here(place, fs, request):
    """A directory of the test's own in the place, and its key."""
    name = request.node.name.split("[")[0][:60]
    return f"{place.at}/{name}", name


def blob(seed, size):
    return random.Random(seed).randbytes(size)


# ---- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 70_001, 8 * MIB, 8 * MIB + 1, 37 * MIB + 5])
def test_what_is_written_is_in_the_store_and_reads_back(place, here, fs, size):
    path, key = here
    data = blob(size, size)
    info = fs.write(f"{path}/whole-{size}", data)
    with fs.open(f"{path}/stream-{size}", "wb") as file:
        for start in range(0, size, 3 * MIB + 1):
            file.write(data[start : start + 3 * MIB + 1])
    for name in (f"whole-{size}", f"stream-{size}"):
        assert place.get(f"{key}/{name}") == data
        assert fs.read(f"{path}/{name}") == data
        found = fs.stat(f"{path}/{name}")
        assert (found.size, found.is_persisted) == (size, True)
    assert fs.stat(f"{path}/whole-{size}").inode == info.inode
    assert file.info.inode == fs.stat(f"{path}/stream-{size}").inode


def test_what_is_written_is_warm_and_with_through_it_is_not(place, here, fs):
    path, _ = here
    for write_type, groups in (("CACHE_THROUGH", 1), ("THROUGH", 0)):
        fs.write(f"{path}/{write_type}", blob(1, 3 * MIB), write_type=write_type)
        assert len(fs.cached([f"{path}/{write_type}"])[f"{path}/{write_type}"]) == groups


def test_overwriting_gives_new_content_and_an_open_reader_keeps_the_old(place, here, fs):
    path, key = here
    old, new = blob(2, 5 * MIB), blob(3, 4 * MIB)
    first = fs.write(f"{path}/f", old)
    with fs.open(f"{path}/f") as reader:
        assert reader.read(10) == old[:10]
        second = fs.write(f"{path}/f", new)
        assert reader.read() == old[10:]
    assert first.content != second.content
    assert fs.read(f"{path}/f") == new == place.get(f"{key}/f")


def test_conditions_hold_or_say_what_there_is(place, here, fs):
    path, key = here
    first = fs.write(f"{path}/f", b"one", exclusive=True)
    with pytest.raises(AlreadyExists):
        fs.write(f"{path}/f", b"two", exclusive=True)
    with pytest.raises(FileExistsError):
        fs.open(f"{path}/f", "xb")
    second = fs.write(f"{path}/f", b"two", if_match=first.fingerprint)
    with pytest.raises(ConditionFailed):
        fs.write(f"{path}/f", b"three", if_match=first.fingerprint)
    assert place.get(f"{key}/f") == b"two"
    assert fs.stat(f"{path}/f").fingerprint == second.fingerprint


def test_what_only_the_cache_has_is_replaced_whatever_the_store_has_beneath(place, here, fs):
    path, key = here
    fs.write(f"{path}/source", b"copied")

    def written(name, data):
        fs.write(f"{path}/{name}", data)

    def streamed(name, data):
        with fs.open(f"{path}/{name}", "wb") as file:
            file.write(data)

    def copied(name, data):
        fs.write(f"{path}/from", data)
        fs.copy(f"{path}/from", f"{path}/{name}", overwrite=True)

    def renamed(name, data):
        fs.write(f"{path}/from", data)
        fs.rename(f"{path}/from", f"{path}/{name}")

    ways = {written: b"by one put", streamed: bytes(8 * MIB + 1), copied: b"by a copy", renamed: b"by a rename"}
    for way, data in ways.items():
        for beneath in ("nothing", "an older version", "somebody else's"):
            name = f"{way.__name__}-{beneath.split()[0]}"
            if beneath != "nothing":
                fs.write(f"{path}/{name}", b"older")
            fs.write(f"{path}/{name}", b"for the cache only", write_type="MUST_CACHE")
            if beneath == "somebody else's":
                place.put(f"{key}/{name}", b"from outside, longer")
            way(name, data)
            assert place.get(f"{key}/{name}") == data == fs.read(f"{path}/{name}")
            assert fs.stat(f"{path}/{name}").is_persisted


def test_a_plain_write_over_a_change_from_outside_wins_and_a_conditional_one_does_not(place, here, fs):
    path, key = here
    for number, options in enumerate(({}, {"stream": True})):
        name = f"f{number}"
        before = fs.write(f"{path}/{name}", b"before")
        place.put(f"{key}/{name}", b"from outside, longer")
        with pytest.raises(ConditionFailed):
            fs.write(f"{path}/{name}", b"conditional", if_match=before.fingerprint)
        place.put(f"{key}/{name}", b"from outside again, longer still")
        if options:
            with fs.open(f"{path}/{name}", "wb") as file:
                file.write(b"ours")
        else:
            fs.write(f"{path}/{name}", b"ours")
        assert place.get(f"{key}/{name}") == b"ours"
        assert fs.read(f"{path}/{name}") == b"ours"


def test_nothing_is_visible_before_close_and_an_exception_leaves_nothing(place, here, fs):
    path, key = here
    fs.write(f"{path}/kept", b"kept")
    for name, size in (("short", 1000), ("long", 20 * MIB), ("kept", 20 * MIB)):
        with pytest.raises(ZeroDivisionError), fs.open(f"{path}/{name}", "wb") as file:
            file.write(bytes(size))
            assert fs.exists(f"{path}/{name}") == (name == "kept")
            raise ZeroDivisionError
    assert place.below(key) == [f"{key}/kept"]
    assert list(fs.names(path)) == ["kept"]
    assert fs.read(f"{path}/kept") == b"kept"
    wait_until(lambda: not fs.intents(), "an aborted write is not settled")


def test_the_part_under_no_mount_keeps_files_in_the_cache(fs):
    data = blob(5, 9 * MIB)
    fs.write("/scratch/a/b", data)
    info = fs.stat("/scratch/a/b")
    assert (info.is_persisted, info.size) == (False, len(data))
    assert fs.read("/scratch/a/b") == data
    with pytest.raises(InvalidArgument):
        fs.write("/scratch/c", b"", write_type="THROUGH")
    fs.rename("/scratch/a", "/scratch/z")
    assert fs.read("/scratch/z/b", 5, 10) == data[5:15]
    fs.delete("/scratch", recursive=True)
    assert not fs.exists("/scratch")


def test_errors_come_at_open_not_at_the_end(place, here, fs):
    path, _ = here
    fs.write(f"{path}/file", b"")
    fs.make_directory(f"{path}/directory")
    with pytest.raises(IsADirectoryError):
        fs.open(f"{path}/directory", "wb")
    with pytest.raises(NotADirectoryError):
        fs.open(f"{path}/file/below", "wb")
    with pytest.raises(FileNotFoundError):
        fs.writer(f"{path}/none/f", parents=False)
    with pytest.raises(OSError, match=r"path|name"):
        fs.open("relative", "wb")


def test_many_writers_of_one_path_leave_one_whole_file(place, here, node):
    path, key = here
    versions = [bytes([number]) * (1000 + number) for number in range(6)]
    failures = []

    def write(data):
        with node.connect() as fs:
            for _ in range(5):
                try:
                    fs.write(f"{path}/f", data)
                except OSError as error:
                    failures.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert place.get(f"{key}/f") in versions
    with node.connect() as fs:
        assert fs.read(f"{path}/f") == place.get(f"{key}/f")


# ---- trees ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A local tree; returns (directory, bytes by name)."""
    top = tmp_path / "tree"
    files = {f"d{n % 7}/e/{n}.bin": blob(n, n * 997) for n in range(120)} | {
        "large.bin": blob(1, 20 * MIB),
        "empty": b"",
    }
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    (top / "nothing" / "here").mkdir(parents=True)
    return top, files


def test_trees_go_up_and_come_down_with_progress(place, here, fs, tree, tmp_path):
    (path, key), (top, files) = here, tree
    steps = []
    done = fs.upload(str(top), path, recursive=True, progress=steps.append)
    assert (done.files, done.failed, done.listed) == (len(files), 0, True), "directories do not count"
    assert done.bytes == sum(map(len, files.values()))
    assert [step.bytes for step in steps] == sorted(step.bytes for step in steps)
    for name, data in files.items():
        assert place.get(f"{key}/{name}") == data
    assert fs.is_dir(f"{path}/nothing/here")
    down = tmp_path / "down"
    done = fs.download(path, str(down), recursive=True)
    assert done.failed == 0
    assert {str(found.relative_to(down)): found.read_bytes() for found in down.rglob("*") if found.is_file()} == files
    assert (down / "nothing" / "here").is_dir()
    again = fs.upload(str(top), path, recursive=True, overwrite=False)
    assert (again.skipped, again.failed) == (len(files), 0)
    again = fs.download(path, str(down), recursive=True, overwrite=False)
    assert again.skipped == len(files)


def test_uploads_stay_inside_and_name_what_they_left_out(place, here, fs, tmp_path):
    path, _ = here
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_bytes(b"file")
    (top / "inside").symlink_to("file")
    (top / "out").symlink_to(outside)
    (top / "broken").symlink_to("none")
    (top / "loop").symlink_to(".")
    os.mkfifo(top / "pipe")
    (top / "unreadable").write_bytes(b"x")
    (top / os.fsdecode(b"not-\xff-utf8")).write_bytes(b"x")
    done = fs.upload(str(top), path, recursive=True)
    named = {os.path.basename(name) for name, _ in done.failures}
    assert named == {"out", "broken", "loop", "pipe", os.fsdecode(b"not-\xff-utf8")}
    assert all(isinstance(error, OSError) for _, error in done.failures)
    os.unlink(top / os.fsdecode(b"not-\xff-utf8"))
    assert set(fs.names(path)) == {"file", "inside", "sub/", "unreadable"}
    assert fs.read(f"{path}/inside") == b"file"
    done = fs.upload(str(top), path, recursive=True, follow_symlinks=True)
    assert {os.path.basename(name) for name, _ in done.failures} == {"broken", "loop", "pipe"}
    assert fs.read(f"{path}/out") == b"secret"
    with pytest.raises(IsADirectoryError):
        fs.upload(str(top), path)
    with pytest.raises(FileNotFoundError):
        fs.upload(str(tmp_path / "none"), f"{path}/none")


def test_trees_are_copied_within_a_store_and_between_stores(place, here, fs, tree):
    (path, key), (top, files) = here, tree
    fs.upload(str(top), f"{path}/one", recursive=True)
    done = fs.copy(f"{path}/one", f"{path}/two", recursive=True)
    assert (done.failed, done.bytes) == (0, sum(map(len, files.values())))
    other = "/local" if place.at == "/bucket" else "/bucket"
    done = fs.copy(f"{path}/one", f"{other}/{key}/three", recursive=True)
    assert done.failed == 0
    for name, data in files.items():
        assert fs.read(f"{path}/two/{name}") == data == place.get(f"{key}/two/{name}")
        assert fs.read(f"{other}/{key}/three/{name}") == data
    assert fs.is_dir(f"{path}/two/nothing/here")
    with pytest.raises(FileExistsError):
        fs.copy(f"{path}/one/empty", f"{path}/two/empty", overwrite=False)
    with pytest.raises(InvalidArgument):
        fs.copy(f"{path}/one", f"{path}/one/below", recursive=True)
    with pytest.raises(IsADirectoryError):
        fs.copy(f"{path}/one", f"{path}/four")


def test_a_move_between_stores_takes_everything_and_a_rename_says_it_cannot(place, here, fs, tree):
    (path, key), (top, files) = here, tree
    fs.upload(str(top), f"{path}/one", recursive=True)
    other = f"{'/local' if place.at == '/bucket' else '/bucket'}/{key}"
    with pytest.raises(CrossMount):
        fs.rename(f"{path}/one", f"{other}/moved")
    done = fs.move(f"{path}/one", f"{other}/moved")
    assert done.failures == ()
    assert (done.bytes, done.job) == (sum(map(len, files.values())), 0)
    assert not fs.exists(f"{path}/one")
    assert not place.below(f"{key}/one/")
    for name, data in files.items():
        assert fs.read(f"{other}/moved/{name}") == data


def test_directories_are_renamed_and_removed_at_once_and_the_store_follows(place, here, fs, tree):
    (path, key), (top, files) = here, tree
    fs.upload(str(top), f"{path}/one", recursive=True)
    job = fs.rename(f"{path}/one", f"{path}/two")
    assert not fs.exists(f"{path}/one")
    assert fs.read(f"{path}/two/d3/e/3.bin") == files["d3/e/3.bin"]
    if job:
        assert fs.wait_job(job, timeout_s=120).state == "done"
    stored = place.below(f"{key}/")
    assert sorted(stored) == sorted(f"{key}/two/{name}" for name in files)
    with pytest.raises(NotEmpty):
        fs.delete(f"{path}/two")
    job = fs.remove_tree(f"{path}/two")
    assert not fs.exists(f"{path}/two")
    fs.write(f"{path}/two/new", b"in its place")
    if job:
        assert fs.wait_job(job, timeout_s=120).state == "done"
    assert place.below(f"{key}/") == [f"{key}/two/new"]


def test_consistency_is_checked_and_repaired(place, here, fs):
    path, key = here
    for number in range(5):
        fs.write(f"{path}/sub/{number}", b"as it was")
    assert list(fs.check_consistency(path, checksum=True)) == []
    place.put(f"{key}/sub/1", b"changed behind our back")
    place.put(f"{key}/sub/new", b"new")
    found = {each.path: each for each in fs.check_consistency(path)}
    assert set(found) == {f"{path}/sub/1", f"{path}/sub/new"}
    assert list(fs.check_consistency(path, recursive=False)) == []
    list(fs.check_consistency(path, repair=True))
    assert list(fs.check_consistency(path, checksum=True)) == []
    assert fs.read(f"{path}/sub/1") == b"changed behind our back"


def test_reads_of_the_store_go_past_what_is_cached(place, here, fs, node):
    path, _ = here
    data = blob(7, 3 * MIB + 11)
    fs.write(f"{path}/f", data)

    def store_gets():
        counters = next(iter(fs.worker_status().values())).counters
        return sum(
            value for name, value in counters.items() if name.startswith("monofs_store_requests") and "kind=get" in name
        )

    before = store_gets()
    assert fs.read(f"{path}/f") == data
    assert store_gets() == before, "it is warm"
    with node.connect(read_type="STORE") as past:
        assert past.read(f"{path}/f") == data
        assert past.read(f"{path}/f", 5, 10) == data[5:15]
    assert store_gets() > before


def test_jobs_policies_and_times_to_live_are_set_and_shown(place, here, fs):
    path, key = here
    fs.write(f"{path}/f", b"12345", write_type="THROUGH")
    job = fs.start_job("load", path)
    seen = []
    assert fs.wait_job(job.number, seen.append, timeout_s=60).state == "done"
    assert seen
    assert fs.job(job.number).kind == "load"
    assert job.number in {each.number for each in fs.jobs()}
    assert fs.cached([f"{path}/f"])[f"{path}/f"]
    for number in (0, 10**9):
        with pytest.raises(NotFound):
            fs.job(number)
    place.put(f"{key}/new", b"from outside")
    fs.needs_sync(path)
    assert set(fs.names(path)) == {"f", "new"}
    assert fs.sync(path) is None
    assert fs.wait_job(fs.sync(path, recursive=True).number, timeout_s=60).state == "done"
    assert fs.set_policy(path, write_type="THROUGH", priority="HIGH").write_type == "THROUGH"
    assert path in {each.path for each in fs.policies()}
    fs.write(f"{path}/by-policy", b"x" * 100)
    assert not fs.cached([f"{path}/by-policy"])[f"{path}/by-policy"]
    fs.remove_policy(path)
    assert path not in {each.path for each in fs.policies()}
    fs.set_ttl(path, 3600.0)
    fs.set_ttl(path, None)
    assert fs.create(f"{path}/created").size == 0
    assert fs.touch(f"{path}/touched").size == 0
    with pytest.raises(FileExistsError):
        fs.create(f"{path}/created")
    assert fs.intents() == []


# ---- fsspec --------------------------------------------------------------------------------------------------------------


def test_transactions_become_visible_together_or_not_at_all(place, here, door):
    path, key = here
    with door.transaction:
        with door.open(f"{path}/one", "wb") as file:
            file.write(b"1")
        door.pipe({f"{path}/two": b"2", f"{path}/long": bytes(12 * MIB)})
        with door.open(f"{path}/text", "w") as file:
            file.write("text")
        assert not door.exists(path) or door.ls(path) == []
    assert sorted(door.ls(path, detail=False)) == [f"{path}/{name}" for name in ("long", "one", "text", "two")]
    assert place.get(f"{key}/text") == b"text"
    with pytest.raises(ZeroDivisionError), door.transaction:
        door.pipe(f"{path}/never", b"x")
        with door.open(f"{path}/long-never", "wb") as file:
            file.write(bytes(12 * MIB))
        raise ZeroDivisionError
    assert not [each for each in place.below() if "never" in each]
    door.pipe(f"{path}/after", b"at once again")
    assert door.cat(f"{path}/after") == b"at once again"


def test_an_exception_leaves_nothing_however_the_file_was_opened(place, here, door, node, monkeypatch):
    path, key = here
    monkeypatch.setenv("MONOFS_MASTERS", node.doors["rpc"])
    opened = [
        lambda name: door.open(f"{path}/{name}", "wb"),
        lambda name: door.open(f"{path}/{name}", "wt"),
        lambda name: door.open(f"{path}/{name}.gz", "wb", compression="infer"),
        lambda name: door.open(f"{path}/{name}.gz", "wt", compression="gzip"),
        lambda name: fsspec.open(f"monofs://{path}/{name}", "wb"),
        lambda name: fsspec.open(f"monofs://{path}/{name}", "w"),
        lambda name: fsspec.open(f"monofs://{path}/{name}.gz", "w", compression="gzip"),
    ]
    for number, make in enumerate(opened):
        for fails in (True, False):
            name = f"{'bad' if fails else 'good'}{number}"
            try:
                with make(name) as file:
                    file.write(
                        b"data" if "b" in getattr(file, "mode", "b") and not hasattr(file, "encoding") else "data"
                    )
                    if fails:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
    names = {each.rsplit("/", 1)[1] for each in place.below(key)}
    assert {name.split(".")[0] for name in names} == {f"good{number}" for number in range(len(opened))}
    for name in names:
        with door.open(f"{path}/{name}", compression="infer") as file:
            assert file.read() == b"data"


def test_fsspec_moves_copies_removes_and_touches(place, here, door):
    path, _ = here
    door.pipe({f"{path}/a/{number}": bytes([number]) for number in range(20)})
    door.copy(f"{path}/a", f"{path}/b", recursive=True)
    door.mv(f"{path}/a", f"{path}/c", recursive=True)
    assert not door.exists(f"{path}/a")
    assert len(door.find(f"{path}/b")) == len(door.find(f"{path}/c")) == 20
    door.mv(f"{path}/c/1", f"{path}/b/")
    door.mv(f"{path}/c/2", f"{path}/two")
    assert door.cat_file(f"{path}/two") == b"\x02"
    door.mv(f"{path}/c/*", f"{path}/d/")
    assert len(door.find(f"{path}/d")) == 18
    door.rm([f"{path}/b", f"{path}/d"], recursive=True)
    assert sorted(door.find(path)) == [f"{path}/two"]
    with pytest.raises(io.UnsupportedOperation):
        door.touch(f"{path}/two", truncate=False)
    door.touch(f"{path}/two")
    assert door.info(f"{path}/two")["size"] == 0
    with pytest.raises(FileExistsError):
        door.pipe_file(f"{path}/two", b"x", mode="create")
    with pytest.raises(FileNotFoundError):
        door.rm(f"{path}/none")


def test_kept_listings_show_what_was_written_through_the_same_object(place, here, node):
    path, _ = here
    kept = MonofsFileSystem(node.doors["rpc"], use_listings_cache=True, skip_instance_cache=True)
    try:
        kept.pipe(f"{path}/a/one", b"1")
        assert kept.ls(path, detail=False) == [f"{path}/a"]
        assert kept.ls(f"{path}/a", detail=False) == [f"{path}/a/one"]
        with kept.open(f"{path}/a/two", "wb") as file:
            file.write(b"2")
        assert kept.ls(f"{path}/a", detail=False) == [f"{path}/a/one", f"{path}/a/two"]
        kept.mv(f"{path}/a", f"{path}/b")
        assert kept.ls(path, detail=False) == [f"{path}/b"]
        kept.rm(f"{path}/b", recursive=True)
        assert not kept.exists(f"{path}/b")
    finally:
        kept.client.close()


@pytest.mark.parametrize("at", ["here", "unmounted"])
def test_what_a_writer_says_of_a_file_is_told_again_by_the_master_and_kept_by_the_store(node, here, fs, place, at):
    top = here[0] if at == "here" else "/said"
    path = f"{top}/with-attributes"
    said = Attributes({"content-type": "text/x-said"}, {"who": "ann"}, {"stage": "raw"})
    whole = msgspec.structs.replace(said, checksums={"crc32": "AAAAAA=="})
    etag = "9a0364b9e99bb480dd25e1f0284c8555"
    for size in (11, 9 * MIB):
        data = os.urandom(size)
        with Pool(node.doors["rpc"]) as master, Pool(node.doors["worker"]) as worker:
            begun = master.call(
                Method.BEGIN_WRITE, api.BeginWriteRequest(path, attributes=said), api.BeginWriteAnswer, 30.0
            )
            for offset in range(0, size, MIB):
                piece = memoryview(data)[offset : offset + MIB]
                last = offset + len(piece) == size
                told = whole if last and offset else said
                request = api.WriteRequest(begun.capability, offset, piece, last, told, etag if last else "")
                worker.call(Method.WRITE, request, api.WriteAnswer, 60.0)
            shown = master.call(Method.STAT, api.StatRequest(path, attributes=True), api.StatAnswer, 30.0)
            listing = api.ListKeysRequest(top, prefix=b"with-")
            page = master.call(Method.LIST_KEYS, listing, api.ListKeysAnswer, 30.0)
        assert fs.read(path) == data
        inode = decode_inode(shown.inode)
        assert decode_attributes(shown.attributes) == (said if size == 11 else whole)
        assert page.keys == [b"with-attributes"]
        assert decode_inode(page.inodes[0]) == inode
        assert etag_of(inode) == (inode.fingerprint[2:] if inode.fingerprint.startswith("e:") else etag)
