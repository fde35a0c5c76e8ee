"""kill -9 between any two steps of every kind of change: it happens wholly or not at all, what was acknowledged is there, nothing is left behind.

A rehearsal on a node that tells every failpoint it passes finds which change passes which. Then each is done once for every failpoint it
passes (at the first passing and at the last), with the node killed there and started again; the client retries under its request id
all the while. Names are found in the source: one that no change passes fails the suite.
"""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from write_world import Directory, Place, Prefix, broken, converged, disagreements, synced, tree_of, until

import monofs
from monofs.model.errors import MonofsError
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
MIB = 1 << 20
CLIENT_S = 60.0
"""How long a client goes on trying over the restart."""

SMALL, OTHER, LARGE = b"s" * 1000, b"other" * 500, random.Random(1).randbytes(17 * MIB + 3)
"""The last takes three parts."""


@dataclass(frozen=True)
class Change:
    """One change and all that may be seen of it: the files ``before`` and ``after``, which lie in the store before monofs knows of it."""

    act: Callable[[Any, str], object]
    before: dict[str, bytes] = field(default_factory=dict)
    after: dict[str, bytes] = field(default_factory=dict)
    directories: frozenset[str] = frozenset()
    """Empty ones that are there afterwards, if it was done."""
    prepare: Callable[[Any, str], object] = lambda fs, at: None
    """Done by monofs itself, before the failpoints are set."""


def tree(top: str, number: int = 5) -> dict[str, bytes]:
    """Some files, at two depths."""
    return {f"{top}/{'deep/' * (n % 2)}f{n}": b"%d" % n * 100 for n in range(number)}


def upload(fs: Any, path: str, data: bytes, **options: Any) -> None:
    """In pieces, as a program does that does not know how much will come."""
    with fs.open(path, "wb", **options) as stream:
        for start in range(0, len(data), MIB):
            stream.write(data[start : start + MIB])


KEPT = {"beside": b"k", "d/beside": b"k" * 10}
CHANGES: dict[str, Change] = {
    "write": Change(lambda fs, at: fs.write(f"{at}/d/new", SMALL), KEPT, KEPT | {"d/new": SMALL}),
    "write nothing": Change(lambda fs, at: fs.write(f"{at}/x/y/new", b""), KEPT, KEPT | {"x/y/new": b""}),
    "write parts": Change(lambda fs, at: upload(fs, f"{at}/d/new", LARGE), KEPT, KEPT | {"d/new": LARGE}),
    "overwrite": Change(lambda fs, at: fs.write(f"{at}/d/f", OTHER), KEPT | {"d/f": SMALL}, KEPT | {"d/f": OTHER}),
    "overwrite by parts": Change(
        lambda fs, at: upload(fs, f"{at}/d/f", LARGE), KEPT | {"d/f": SMALL}, KEPT | {"d/f": LARGE}
    ),
    "write without caching": Change(
        lambda fs, at: fs.write(f"{at}/f", SMALL, write_type="THROUGH"), KEPT, KEPT | {"f": SMALL}
    ),
    "write to the cache only": Change(
        lambda fs, at: fs.write(f"{at}/d/f", SMALL, write_type="MUST_CACHE"), KEPT, KEPT | {"d/f": SMALL}
    ),
    "delete": Change(lambda fs, at: fs.delete(f"{at}/d/f"), KEPT | {"d/f": SMALL}, KEPT),
    "delete a directory": Change(
        lambda fs, at: fs.delete(f"{at}/d/empty"), KEPT, KEPT, prepare=lambda fs, at: fs.make_directory(f"{at}/d/empty")
    ),
    "rename": Change(lambda fs, at: fs.rename(f"{at}/d/f", f"{at}/g"), KEPT | {"d/f": SMALL}, KEPT | {"g": SMALL}),
    "rename over": Change(
        lambda fs, at: fs.rename(f"{at}/d/f", f"{at}/g"), KEPT | {"d/f": SMALL, "g": OTHER}, KEPT | {"g": SMALL}
    ),
    "rename large": Change(lambda fs, at: fs.rename(f"{at}/d/f", f"{at}/d/g"), {"d/f": LARGE}, {"d/g": LARGE}),
    "make a directory": Change(
        lambda fs, at: fs.make_directory(f"{at}/d/x/y", parents=True), KEPT, KEPT, frozenset({"d/x/y"})
    ),
    "copy": Change(
        lambda fs, at: fs.copy(f"{at}/d/f", f"{at}/n/g"), KEPT | {"d/f": SMALL}, KEPT | {"d/f": SMALL, "n/g": SMALL}
    ),
    "touch": Change(lambda fs, at: fs.touch(f"{at}/d/new"), KEPT, KEPT | {"d/new": b""}),
    "remove a tree": Change(lambda fs, at: fs.remove_tree(f"{at}/t"), KEPT | tree("t"), KEPT),
    "rename a tree": Change(lambda fs, at: fs.rename(f"{at}/t", f"{at}/d/u"), KEPT | tree("t"), KEPT | tree("d/u")),
    "write below a renamed tree": Change(
        lambda fs, at: (fs.rename(f"{at}/t", f"{at}/u"), fs.write(f"{at}/u/f0", OTHER), fs.write(f"{at}/t/f1", OTHER)),
        tree("t"),
        tree("u") | {"u/f0": OTHER, "t/f1": OTHER},
    ),
}


class Ground:
    """A node on lasting ports whose failpoints are set by a file, and places of one kind of store."""

    def __init__(self, directory: Path, make_place: Callable[[str], Place]) -> None:
        self.failpoints = directory / "failpoints"
        environment = {"MONOFS_FAILPOINTS": f"@{self.failpoints}"}
        self.node = ServedNode(str(directory / "home"), sets=["worker.quota=1GiB"], environment=environment).start()
        for name, door in (("master", "rpc"), ("worker", "worker")):
            self.node.sets.append(f"{name}.port={self.node.doors[door].rpartition(':')[2]}")
        self.make_place = make_place
        self._numbers = count(1)
        self._passed: dict[str, list[str]] = {}

    def arm(self, text: str) -> None:
        """Set failpoints; they count from here."""
        whole = self.failpoints.with_suffix(".new")
        whole.write_text(f"{text}\n,number{next(self._numbers)}=none")
        whole.replace(self.failpoints)

    def passed(self, name: str) -> list[str]:
        """The failpoints that a change passes, in order, when nothing goes wrong."""
        if name not in self._passed:
            with self.connect() as fs:
                said_before = len(self.node.output())
                Trial(self, name, fs).undisturbed()
                said = self.node.output()[said_before:]
            self._passed[name] = re.findall(r"^failpoint (\S+)$", said, re.MULTILINE)
        return self._passed[name]

    def connect(self) -> Any:
        return monofs.connect(self.node.doors["rpc"], timeout_s=CLIENT_S)

    def died(self) -> bool:
        assert self.node.process is not None
        return self.node.process.poll() is not None


class Trial:
    """One change on a fresh mount."""

    def __init__(self, ground: Ground, name: str, fs: Any) -> None:
        self.ground, self.change, self.fs = ground, CHANGES[name], fs
        number = next(ground._numbers)
        self.place = ground.make_place(f"p{number}")
        self.at = f"/m{number}"
        for file, data in self.change.before.items():
            self.place.put(file, data)
        fs.mount_add(self.at, self.place.uri, self.place.options)
        synced(fs, self.at)
        self.change.prepare(fs, self.at)

    def undisturbed(self) -> None:
        self.ground.arm("*=tell")
        self.change.act(self.fs, self.at)
        converged(self.fs)
        self.ground.arm("")
        assert self.look() == self.change.after
        self.finish()

    def killed(self, failpoint: str, passing: int) -> None:
        """Do it, see the node die there, start it again, and let the client finish."""
        self.ground.arm(f"{failpoint}=kill@{passing}")
        answers: list[object] = []

        def act() -> None:
            try:
                self.change.act(self.fs, self.at)
                answers.append(None)
            except MonofsError as error:
                answers.append(error)

        acting = threading.Thread(target=act)
        acting.start()
        try:
            self.wait_for_death(acting)
            self.ground.arm("")
            self.ground.node.start()
        finally:
            acting.join(2 * CLIENT_S)
        assert answers, "the client hangs"
        converged(self.fs)
        files = self.look()
        if answers == [None]:
            assert files == self.change.after, "it was acknowledged"
        else:
            assert files in self.allowed(), f"half of it was done: {files.keys()}, {answers}"
        self.finish()

    def wait_for_death(self, acting: threading.Thread) -> None:
        until(lambda: self.ground.died() or not (acting.is_alive() or _open(self.fs)), "the node to die")
        assert self.ground.died(), "the failpoint was not passed this time"

    def allowed(self) -> list[dict[str, bytes]]:
        """All, nothing, or the first of several steps that are changes of their own."""
        if self.change is CHANGES["write below a renamed tree"]:
            renamed = tree("u")
            return [self.change.before, renamed, renamed | {"u/f0": OTHER}, self.change.after]
        return [self.change.before, self.change.after]

    def look(self) -> dict[str, bytes]:
        """The tree's files; tree and store agree, also after a look at the whole store."""
        files, _, _ = tree_of(self.fs, self.at)
        assert not disagreements(self.fs, self.at, self.place)
        synced(self.fs, self.at)
        again, directories, _ = tree_of(self.fs, self.at)
        assert again == files
        if files == self.change.after != self.change.before:
            assert self.change.directories <= directories
        return files

    def finish(self) -> None:
        """Every path can be changed again; every invariant holds."""
        for path in {*self.change.before, *self.change.after}:
            self.fs.write(f"{self.at}/{path}", b"again")
        files, _, _ = tree_of(self.fs, self.at)
        assert all(files[path] == b"again" for path in {*self.change.before, *self.change.after})
        assert not disagreements(self.fs, self.at, self.place)
        assert not broken(self.fs)
        self.fs.mount_remove(self.at)


def _open(fs: Any) -> bool:
    try:
        return bool(fs.intents() or [job for job in fs.jobs() if job.state == "running"])
    except MonofsError:
        return True


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    directory = tmp_path_factory.mktemp("local")
    ground = Ground(directory, lambda name: Directory(str(directory / "stores" / name)))
    yield ground
    ground.node.kill()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory, make_bucket: Callable[[], Any]) -> Iterator[Ground]:
    bucket = make_bucket()
    ground = Ground(tmp_path_factory.mktemp("s3"), lambda name: Prefix(bucket, name))
    yield ground
    ground.node.kill()


def named() -> set[str]:
    """The failpoints in the source."""
    package = os.path.dirname(monofs.__file__)
    sources = [path.read_text() for path in Path(package).rglob("*.py")]
    return {name for text in sources for name in re.findall(r'failpoint\("([^"]+)"\)', text)}


RESOLVING = {name for name in named() if name.startswith("resolve.")}
"""Passed only by a node that finds an open intent: killed there a second time, below."""


def test_every_failpoint_is_passed_by_some_change(local: Ground, s3: Ground) -> None:
    passed = {name for change in CHANGES for ground in (local, s3) for name in ground.passed(change)}
    assert named() - RESOLVING == passed - RESOLVING


def every_kill(ground: Ground, name: str) -> None:
    passed = ground.passed(name)
    problems = []
    for failpoint in dict.fromkeys(passed):
        for passing in dict.fromkeys((1, passed.count(failpoint))):
            with ground.connect() as fs:
                try:
                    Trial(ground, name, fs).killed(failpoint, passing)
                except AssertionError as error:
                    problems.append(f"{failpoint}@{passing}: {error}")
                    if ground.died():
                        ground.node.start()
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", CHANGES)
def test_killed_between_any_two_steps_over_a_directory(local: Ground, name: str) -> None:
    every_kill(local, name)


@pytest.mark.ceph
@pytest.mark.parametrize("name", CHANGES)
def test_killed_between_any_two_steps_over_an_s3_server(s3: Ground, name: str) -> None:
    every_kill(s3, name)


@pytest.mark.ceph
@pytest.mark.parametrize("failpoint", sorted(RESOLVING))
@pytest.mark.parametrize("name", ["write", "write parts", "delete", "rename", "make a directory", "copy"])
def test_killed_again_while_it_finishes_what_the_first_kill_left(s3: Ground, name: str, failpoint: str) -> None:
    passed = s3.passed(name)
    first = "write.part-sent" if "write.part-sent" in passed else "intent.begun"
    if first not in passed:
        first = next(each for each in passed if each.endswith("begun"))
    with s3.connect() as fs:
        trial = Trial(s3, name, fs)
        s3.arm(f"{first}=kill")
        acting = threading.Thread(target=_ignoring, args=(trial,))
        acting.start()
        trial.wait_for_death(acting)
        s3.arm(f"{failpoint}=kill")
        s3.node.start()
        until(lambda: s3.died() or not _open(fs), "the node to die again, or to finish")
        s3.arm("")
        if s3.died():
            s3.node.start()
        acting.join(2 * CLIENT_S)
        converged(fs)
        assert trial.look() in trial.allowed()
        trial.finish()


def _ignoring(trial: Trial) -> None:
    try:
        trial.change.act(trial.fs, trial.at)
    except MonofsError:
        pass
