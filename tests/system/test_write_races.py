"""Changes that meet: two of one path, one below another, a change and a look at the store, a change and somebody else's.

Requests to the S3 server are held by a proxy at the moment that matters, so that what follows happens in between. Each test names the rule
it needs; without that rule it fails.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from write_world import Directory, Place, Prefix, converged, disagreements, owed, synced, tree_of

from monofs.model.errors import (
    AlreadyExists,
    Busy,
    ConditionFailed,
    ContentChanged,
    MonofsError,
    NotFound,
    NotSupported,
)
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = pytest.mark.system
MIB = 1 << 20
NEVER_LOOKS = "namespace.sync_interval_s=-1"
"""So that what the tree shows is what changes and explicit syncs made of it."""


class Gate:
    """Where a request waits: the store has done it, its answer is held until ``open``."""

    def __init__(self) -> None:
        self.reached, self._opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._opened.wait(60)

    def wait(self) -> None:
        assert self.reached.wait(30), "the request was not made"

    def open(self) -> None:
        self._opened.set()


class Scene:
    """A mount of an S3 server behind a proxy, and threads for what happens meanwhile."""

    def __init__(self, node: ServedNode, bucket: Any, proxy: StoreProxy) -> None:
        self.node, self.bucket, self.proxy = node, bucket, proxy
        bucket.endpoint = proxy.endpoint
        self.place: Place = Prefix(bucket, "p")
        self.at = f"/{bucket.name}"
        self.fs: Any = node.connect(timeout_s=60)
        self.fs.mount_add(self.at, self.place.uri, self.place.options)
        self._pool = ThreadPoolExecutor(16)
        self._gates: list[Gate] = []

    def meanwhile(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        return self._pool.submit(call, *arguments, **options)

    def hold(self, kind: str, name: str = "", **options: Any) -> Gate:
        """Hold the answer of the next request of this kind and key."""
        gate = Gate()
        self._gates.append(gate)
        key = f"p/{name}".encode() if name else b""
        self.proxy.add(Fault(kind=kind, key=key, times=1, after_bytes=-1, call=gate, **options))
        return gate

    def load(self, files: dict[str, bytes]) -> None:
        """Put files into the store and make them known."""
        for name, data in files.items():
            self.place.put(name, data)
        synced(self.fs, self.at)

    def path(self, name: str) -> str:
        return f"{self.at}/{name}"

    def ends_with(self, files: dict[str, bytes]) -> None:
        """At rest, and after a look at the whole store, tree and store hold just these."""
        for _ in range(2):
            converged(self.fs, self.at)
            assert tree_of(self.fs, self.at)[0] == files
            problems = disagreements(self.fs, self.at, self.place)
            assert not problems
            synced(self.fs, self.at)

    def close(self) -> None:
        for gate in self._gates:
            gate.open()
        self.proxy.clear()
        self._pool.shutdown()
        converged(self.fs, self.at)
        self.fs.mount_remove(self.at)
        self.fs.close()


@pytest.fixture(scope="module")
def node(serve: Callable[..., ServedNode]) -> ServedNode:
    return serve(NEVER_LOOKS, "worker.quota=1GiB")


@pytest.fixture
def scene(node: ServedNode, ceph: Any, bucket: Any) -> Iterator[Scene]:
    with StoreProxy(ceph.endpoint) as proxy:
        made = Scene(node, bucket, proxy)
        yield made
        made.close()


@pytest.fixture(params=["local", "s3"])
def mounted(request: pytest.FixtureRequest, node: ServedNode, tmp_path: Path) -> Iterator[tuple[Any, str, Place]]:
    """(file system, mount point, place) over each kind of store."""
    place: Place
    if request.param == "s3":
        place = Prefix(request.getfixturevalue("bucket"), "p")
    else:
        place = Directory(str(tmp_path / "store"))
    with node.connect() as fs:
        at = f"/{request.param}-{time.monotonic_ns()}"
        fs.mount_add(at, place.uri, place.options)
        yield fs, at, place
        converged(fs, at)
        fs.mount_remove(at, discard=True)


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call gives, errors included."""
    try:
        return call(*arguments, **options)
    except MonofsError as error:
        return error


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Their outcomes when all are made at the same time."""
    together = threading.Barrier(len(calls))

    def make(call: Callable[[], Any]) -> Any:
        together.wait(30)
        return outcome(call)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))


# ---- two writers of one path ----------------------------------------------------------------------------------------------


def test_of_many_writers_of_one_path_the_file_is_one_whole(mounted: Any) -> None:
    """Rule: one intent a path; the others wait, and are busy if that takes too long."""
    fs, at, place = mounted
    for turn in range(3):
        datas = [bytes([65 + n]) * size for n, size in enumerate([10, MIB, 9 * MIB, 0, 5000, 10])]
        answers = at_once([partial(fs.write, f"{at}/f{turn}", data) for data in datas])
        assert all(isinstance(each, Busy) for each in answers if isinstance(each, MonofsError)), answers
        converged(fs, at)
        written = [data for data, answer in zip(datas, answers, strict=True) if not isinstance(answer, MonofsError)]
        assert fs.read(f"{at}/f{turn}") in written
    assert not disagreements(fs, at, place)
    synced(fs, at)
    assert not disagreements(fs, at, place)


def test_of_many_exclusive_writers_one_wins(mounted: Any) -> None:
    """Rule: exclusive is decided when the path is locked, and by the store."""
    fs, at, place = mounted
    datas = [bytes([65 + n]) * (MIB * (n % 2) * 9 + 10) for n in range(6)]
    answers = at_once([partial(fs.write, f"{at}/f", data, exclusive=True) for data in datas])
    won = [data for data, answer in zip(datas, answers, strict=True) if not isinstance(answer, MonofsError)]
    assert len(won) == 1, answers
    assert all(isinstance(each, AlreadyExists) for each in answers if isinstance(each, MonofsError)), answers
    converged(fs, at)
    assert fs.read(f"{at}/f") == won[0]
    assert not disagreements(fs, at, place)


def test_many_who_touch_one_path_are_told_as_if_one_after_the_other(mounted: Any) -> None:
    """Rule: who finds it made meanwhile touches what is there, which below a mount cannot be done."""
    fs, at, _ = mounted
    for number in range(5):
        answers = at_once([partial(fs.touch, f"{at}/f{number}")] * 6)
        failed = [each for each in answers if isinstance(each, MonofsError)]
        assert len(failed) == 5
        assert all(isinstance(each, NotSupported) for each in failed), failed
        unmounted = at_once([partial(fs.touch, f"/touched{at.replace('/', '-')}-{number}")] * 6)
        assert not any(isinstance(each, MonofsError) for each in unmounted), unmounted


def test_of_many_writers_over_one_version_one_wins(mounted: Any) -> None:
    """Rule: ``if_match`` is checked when the path is locked."""
    fs, at, place = mounted
    first = fs.write(f"{at}/f", b"first")
    datas = [bytes([65 + n]) * 100 for n in range(6)]
    answers = at_once([partial(fs.write, f"{at}/f", data, if_match=first.fingerprint) for data in datas])
    won = [data for data, answer in zip(datas, answers, strict=True) if not isinstance(answer, MonofsError)]
    assert len(won) == 1, answers
    assert all(isinstance(each, ConditionFailed) for each in answers if isinstance(each, MonofsError)), answers
    assert fs.read(f"{at}/f") == won[0]
    assert not disagreements(fs, at, place)


def test_a_writer_waits_for_the_one_before_and_is_busy_only_if_that_hangs(scene: Scene) -> None:
    """Rule: a lock is waited for, up to ``master.busy_wait_s``."""
    gate = scene.hold("put", "f")
    first = scene.meanwhile(scene.fs.write, scene.path("f"), b"first")
    gate.wait()
    with pytest.raises(Busy, match="write"):
        scene.fs.write(scene.path("f"), b"busy")
    second = scene.meanwhile(scene.fs.write, scene.path("f"), b"second")
    gate.open()
    first.result(30)
    second.result(30)
    scene.ends_with({"f": b"second"})


def test_other_paths_are_not_held_up_by_an_intent(scene: Scene) -> None:
    """Rule: an intent locks its path, not its directory."""
    gate = scene.hold("put", "d/f")
    first = scene.meanwhile(scene.fs.write, scene.path("d/f"), b"first")
    gate.wait()
    scene.fs.write(scene.path("d/g"), b"beside")
    scene.fs.write(scene.path("d/f2"), b"the same beginning")
    with pytest.raises(Busy):
        scene.fs.rename(scene.path("d"), scene.path("e"))
    assert scene.fs.intents()[0].path == scene.path("d/f")
    gate.open()
    first.result(30)
    scene.ends_with({"d/f": b"first", "d/g": b"beside", "d/f2": b"the same beginning"})


# ---- below a directory that is being removed or renamed -------------------------------------------------------------------


def old_tree(number: int = 30) -> dict[str, bytes]:
    return {f"t/{'deep/' * (n % 3)}f{n}": b"old %d" % n for n in range(number)}


@pytest.mark.parametrize("moment", ["the batch is on its way", "the batch is done"])
def test_what_is_written_where_a_tree_is_being_removed_stays(scene: Scene, moment: str) -> None:
    """Rule: a deletion never takes what the tree has or what is being written; a write waits for a batch under way that names its key."""
    scene.load(old_tree())
    gate = scene.hold("post")
    if moment == "the batch is on its way":
        scene.proxy.add(Fault(kind="post", times=1, delay_s=1.0))
    scene.fs.remove_tree(scene.path("t"))
    assert not scene.fs.exists(scene.path("t"))
    written = {"t/f3": b"new", "t/deep/f1": b"new", "t/f0": b"", "t/quite/new": b"new"}
    if moment == "the batch is done":
        gate.wait()
        gate_opener = threading.Timer(1.0, gate.open)
        gate_opener.start()
    else:
        gate.open()
    for name, data in written.items():
        scene.fs.write(scene.path(name), data)
        assert scene.fs.read(scene.path(name)) == data
    scene.ends_with(written)


def test_a_tree_removed_and_made_anew_again_and_again_is_the_last_one(mounted: Any) -> None:
    """Rule: what a removal deletes is what the tree knew when it was removed."""
    fs, at, place = mounted
    for turn in range(5):
        for n in range(8):
            fs.write(f"{at}/t/{n % 3}/f{n}", b"%d %d" % (turn, n))
        if turn < 4:
            fs.remove_tree(f"{at}/t")
            assert not fs.exists(f"{at}/t")
    expected = {f"t/{n % 3}/f{n}": b"4 %d" % n for n in range(8)}
    assert tree_of(fs, at)[0] == expected
    converged(fs, at)
    synced(fs, at)
    assert tree_of(fs, at)[0] == expected
    assert not disagreements(fs, at, place)


def test_what_somebody_puts_into_a_removed_tree_afterwards_is_found_when_the_removal_has_ended(scene: Scene) -> None:
    """Rule: an object newer than the removal is not the removal's."""
    scene.load(old_tree())
    gate = scene.hold("post")
    scene.fs.remove_tree(scene.path("t"))
    gate.wait()
    time.sleep(1.1)  # stores tell times in seconds
    scene.place.put("t/zz-from-outside", b"theirs")
    assert not scene.fs.exists(scene.path("t")), "until then the tree is the truth"
    gate.open()
    converged(scene.fs, scene.at)
    synced(scene.fs, scene.at)
    scene.ends_with({"t/zz-from-outside": b"theirs"})


def test_a_renamed_tree_can_be_used_while_its_objects_move(scene: Scene) -> None:
    """Rules: a record tells where its bytes are; a write at a key that is to be moved has it moved first; MOVED leaves changed files alone."""
    files = old_tree()
    scene.load(files)
    gate = scene.hold("put", "u/f0")
    scene.fs.rename(scene.path("t"), scene.path("u"))
    gate.wait()
    assert {job.kind for job in scene.fs.jobs() if job.state == "running"} == {"move"}
    expected = {"u" + name[1:]: data for name, data in files.items()}
    assert tree_of(scene.fs, scene.at)[0] == expected, "the tree is renamed at once"
    assert not scene.fs.exists(scene.path("t"))
    changed = {
        "u/f3": b"overwritten",
        "u/new": b"new",
        "u/deep/deep/f5": b"",
        "t/f6": b"at an old key",
        "t/f0": b"also",
    }
    running = [scene.meanwhile(scene.fs.write, scene.path(name), data) for name, data in changed.items()]
    running.append(scene.meanwhile(scene.fs.delete, scene.path("u/f9")))
    running.append(scene.meanwhile(scene.fs.rename, scene.path("u/f12"), scene.path("u/renamed")))
    gone = scene.meanwhile(outcome, scene.fs.delete, scene.path("t/f9"))
    assert isinstance(gone.result(30), NotFound)
    gate.open()
    for each in running:
        each.result(30)
    expected |= changed | {"u/renamed": expected["u/f12"]}
    del expected["u/f9"], expected["u/f12"]
    scene.ends_with(expected)


def test_a_tree_whose_objects_move_cannot_be_moved_or_removed_meanwhile(scene: Scene) -> None:
    """Rule: operations on trees at, above or below an open tree job wait, then name it."""
    scene.load(old_tree(6) | {"x/y": b""})
    gate = scene.hold("put", "x/u/f0")
    scene.fs.rename(scene.path("t"), scene.path("x/u"))
    gate.wait()
    running = [
        scene.meanwhile(outcome, scene.fs.rename, scene.path("x/u"), scene.path("v")),
        scene.meanwhile(outcome, scene.fs.remove_tree, scene.path("x/u/deep")),
        scene.meanwhile(outcome, scene.fs.remove_tree, scene.path("x")),
    ]
    for each in running:
        assert isinstance(each.result(30), Busy), each
    gate.open()
    converged(scene.fs, scene.at)
    scene.fs.rename(scene.path("x/u"), scene.path("v"))
    scene.ends_with({"v" + name[1:]: data for name, data in old_tree(6).items()} | {"x/y": b""})


def test_a_file_made_below_a_directory_that_is_deleted_at_the_same_time(mounted: Any) -> None:
    """Rule: a directory operation waits for locks below it; a file operation for locks above."""
    fs, at, place = mounted
    for turn in range(8):
        fs.make_directory(f"{at}/d{turn}")
        deleted, written = at_once(
            [
                partial(fs.delete, f"{at}/d{turn}"),
                partial(fs.write, f"{at}/d{turn}/f", b"new", parents=turn % 2 == 0),
            ]
        )
        converged(fs, at)
        if isinstance(written, MonofsError):
            assert isinstance(written, NotFound | Busy)
            assert not isinstance(deleted, MonofsError)
            assert not fs.exists(f"{at}/d{turn}")
        else:
            assert fs.read(f"{at}/d{turn}/f") == b"new"
    synced(fs, at)
    assert not disagreements(fs, at, place)


# ---- under a reader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["overwrite", "rename over", "delete", "remove the tree"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_reader_sees_one_version_whatever_happens_to_its_file(mounted: Any, how: str, cached: bool) -> None:
    """Rule: content is immutable; another version is another content."""
    fs, at, place = mounted
    old, new = b"o" * (5 * MIB), b"n" * (5 * MIB)
    fs.write(f"{at}/d/f", old, write_type="CACHE_THROUGH" if cached else "THROUGH")
    fs.write(f"{at}/g", new)
    with fs.open(f"{at}/d/f") as file:
        got = bytearray(file.read(MIB))
        if how == "overwrite":
            fs.write(f"{at}/d/f", new)
        elif how == "rename over":
            fs.rename(f"{at}/g", f"{at}/d/f")
        elif how == "delete":
            fs.delete(f"{at}/d/f")
        else:
            fs.remove_tree(f"{at}/d")
        if how in ("overwrite", "rename over"):
            assert fs.read(f"{at}/d/f") == new
        else:
            assert not fs.exists(f"{at}/d/f")
        try:
            while block := file.read(MIB):
                got += block
            assert got == old
        except (ContentChanged, NotFound):
            assert old.startswith(bytes(got))
    converged(fs, at)
    assert not disagreements(fs, at, place)


# ---- a change and a look at the store -------------------------------------------------------------------------------------


def look(scene: Scene) -> Gate:
    """A listing of the top directory whose answer is held: what it says will be old."""
    gate = scene.hold("list")
    scene.meanwhile(synced, scene.fs, scene.at)
    gate.wait()
    return gate


def test_a_file_made_while_the_store_is_listed_is_not_taken_for_missing(scene: Scene) -> None:
    """Rule: names changed after the listing was asked for are passed over (changed_index)."""
    scene.load({"a": b"a", "z": b"z"})
    gate = look(scene)
    scene.fs.write(scene.path("m"), b"made meanwhile")
    scene.fs.write(scene.path("d/m"), b"with its directory")
    scene.fs.make_directory(scene.path("empty"))
    gate.open()
    converged(scene.fs, scene.at)
    assert scene.fs.read(scene.path("m")) == b"made meanwhile"
    assert scene.fs.is_dir(scene.path("empty"))
    scene.ends_with({"a": b"a", "z": b"z", "m": b"made meanwhile", "d/m": b"with its directory"})


def test_a_file_deleted_while_the_store_is_listed_does_not_come_back(scene: Scene) -> None:
    """Rule: deletions leave tombstones that older listings respect."""
    scene.load({"a": b"a", "m": b"m", "d/x": b"x"})
    gate = look(scene)
    scene.fs.delete(scene.path("m"))
    scene.fs.remove_tree(scene.path("d"))
    gate.open()
    converged(scene.fs, scene.at)
    assert sorted(scene.fs.names(scene.at)) == ["a"]
    scene.ends_with({"a": b"a"})


def test_a_file_renamed_while_the_store_is_listed_is_at_its_new_name_only(scene: Scene) -> None:
    """Rules: tombstone of the old name, changed_index of the new."""
    scene.load({"a": b"a", "m": b"m", "d/x": b"x"})
    gate = look(scene)
    scene.fs.rename(scene.path("m"), scene.path("b"))
    scene.fs.rename(scene.path("d"), scene.path("e"))
    gate.open()
    converged(scene.fs, scene.at)
    assert sorted(scene.fs.names(scene.at)) == ["a", "b", "e/"]
    scene.ends_with({"a": b"a", "b": b"m", "e/x": b"x"})


def test_a_file_overwritten_while_the_store_is_listed_keeps_its_new_content(scene: Scene) -> None:
    """Rule: changed_index."""
    scene.load({"m": b"old"})
    gate = look(scene)
    scene.fs.write(scene.path("m"), b"new")
    content = scene.fs.stat(scene.path("m")).content
    gate.open()
    converged(scene.fs, scene.at)
    assert scene.fs.stat(scene.path("m")).content == content
    scene.ends_with({"m": b"new"})


def test_an_object_that_is_there_before_its_name_is_not_taken_over_by_a_listing(scene: Scene) -> None:
    """Rule: names that carry an intent are none of a listing's business; the content that is warm is the one that gets the name."""
    scene.load({"a": b"a"})
    gate = scene.hold("put", "m")
    writing = scene.meanwhile(scene.fs.write, scene.path("m"), b"m" * 5000)
    gate.wait()
    synced(scene.fs, scene.at)
    assert list(scene.fs.names(scene.at)) == ["a"]
    assert not scene.fs.exists(scene.path("m"))
    gate.open()
    content = writing.result(30).content
    assert scene.fs.stat(scene.path("m")).content == content
    assert scene.fs.read(scene.path("m")) == b"m" * 5000
    assert scene.proxy.count("get", b"p/m") == 0, "what is written is warm"
    scene.ends_with({"a": b"a", "m": b"m" * 5000})


def test_an_object_that_is_gone_before_its_name_is_ended_once(scene: Scene) -> None:
    """The same of a deletion: the listing that no longer shows it does not make the deletion fail."""
    scene.load({"a": b"a", "m": b"m"})
    gate = scene.hold("delete", "m")
    deleting = scene.meanwhile(scene.fs.delete, scene.path("m"))
    gate.wait()
    synced(scene.fs, scene.at)
    gate.open()
    deleting.result(30)
    scene.ends_with({"a": b"a"})


def test_files_that_no_store_has_stay_with_their_directories(mounted: Any) -> None:
    """Rules: names that are not persisted, and directories marked explicit, are none of a listing's business."""
    fs, at, place = mounted
    place.put("d/beside", b"beside")
    fs.write(f"{at}/d/kept", b"kept", write_type="MUST_CACHE")
    fs.write(f"{at}/x/y/kept", b"kept", write_type="MUST_CACHE")
    synced(fs, at)
    place.delete("d/beside")
    if not place.flat:
        os.rmdir(f"{place.path}/d")
    for _ in range(2):
        synced(fs, at)
        assert tree_of(fs, at)[0] == {"d/kept": b"kept", "x/y/kept": b"kept"}
        fs.free(at, recursive=True, force=True)
    assert place.files() == {}


# ---- a change and somebody else's -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["arrives", "is lost"])
@pytest.mark.parametrize("first", [True, False])
def test_an_object_overwritten_from_outside_before_our_put_has_ended_is_theirs(
    scene: Scene, answer: str, first: bool
) -> None:
    """Rule: an outcome that is not known is asked for, and only what this operation made counts as done."""
    if not first:
        for data in (b"older", b"old"):  # so that it is known which conditions the server checks
            scene.fs.write(scene.path("f"), data)
    scene.proxy.add(
        Fault(
            kind="put",
            key=b"p/f",
            times=1,
            after_bytes=-1,
            call=lambda: scene.place.put("f", b"theirs"),
            cut="" if answer == "arrives" else "close",
        )
    )
    ended = outcome(scene.fs.write, scene.path("f"), b"ours")
    converged(scene.fs, scene.at)
    if answer == "is lost" and not isinstance(ended, MonofsError):
        assert scene.fs.read(scene.path("f")) in (b"ours", b"theirs")
    synced(scene.fs, scene.at)
    now = scene.place.files()["f"]
    assert now in (b"theirs", b"ours")
    if answer == "arrives":
        assert not isinstance(ended, MonofsError)
        assert now == b"theirs"
    scene.ends_with({"f": now})


def test_an_object_deleted_from_outside_before_our_put_has_ended_is_gone(scene: Scene) -> None:
    """The same of a deletion from outside."""
    scene.proxy.add(
        Fault(kind="put", key=b"p/f", times=1, after_bytes=-1, call=lambda: scene.place.delete("f"), cut="close")
    )
    ended = outcome(scene.fs.write, scene.path("f"), b"ours")
    converged(scene.fs, scene.at)
    synced(scene.fs, scene.at)
    expected = scene.place.files()
    if not isinstance(ended, MonofsError):
        assert expected == {"f": b"ours"}, "it was acknowledged after the deletion"
    scene.ends_with(expected)


def test_a_version_that_is_not_known_here_is_not_overwritten_by_a_write_with_a_condition(mounted: Any) -> None:
    """Rule: a publish is conditional on the fingerprint it replaces; a plain write learns and tries again."""
    fs, at, place = mounted
    known = fs.write(f"{at}/f", b"known")
    place.put("f", b"from outside, longer")
    with pytest.raises(ConditionFailed):
        fs.write(f"{at}/f", b"ours", if_match=known.fingerprint)
    assert place.files() == {"f": b"from outside, longer"}
    place.put("new", b"from outside")
    with pytest.raises(AlreadyExists):
        fs.write(f"{at}/new", b"ours", exclusive=True)
    place.put("f", b"from outside, again")
    fs.write(f"{at}/f", b"ours")
    fs.write(f"{at}/new", b"ours")
    assert place.files() == {"f": b"ours", "new": b"ours"}
    converged(fs, at)
    synced(fs, at)
    assert not disagreements(fs, at, place)


def test_a_file_of_the_same_size_written_in_the_same_second_is_seen(node: ServedNode, tmp_path: Path) -> None:
    """Rule: a fingerprint taken less than 2 s after the file changed is looked at again before it is trusted."""
    place = Directory(str(tmp_path / "store"))
    with node.connect() as fs:
        fs.mount_add("/racy", place.uri, {})
        for turn in range(50):
            ours, theirs = b"ours %03d" % turn, b"them %03d" % turn
            fs.write(f"/racy/f{turn}", ours)
            with open(f"{place.path}/f{turn}", "r+b") as stream:
                stream.write(theirs)
        synced(fs, "/racy")
        for turn in range(50):
            assert fs.read(f"/racy/f{turn}") == b"them %03d" % turn
        fs.mount_remove("/racy")


def test_nothing_is_owed_after_all_this(scene: Scene) -> None:
    converged(scene.fs)
    assert not owed(scene.fs)
    assert not {name: found for name, found in scene.fs.fsck().checks.items() if found}
