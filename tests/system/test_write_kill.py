"""kill -9 between any two steps of every kind of change: it happens wholly or not at all, what was acknowledged is there, nothing is left behind.

A rehearsal on a node that tells every failpoint it passes finds which change passes which. Then each is done once for every failpoint it
passes (at the first passing and at the last), with the node killed there and started again; the client retries under its request id
all the while. Names are found in the source: one that no change passes fails the suite.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from write_changes import CHANGES, Trial
from write_world import Directory, Place, Prefix, converged, owed, until

import monofs
from monofs.model.errors import MonofsError
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
CLIENT_S = 60.0
"""How long a client goes on trying over the restart."""


class Ground:
    """A node on lasting ports whose failpoints are set by a file, and places of one kind of store."""

    def __init__(self, directory: Path, make_place: Callable[[str], Place]) -> None:
        self.failpoints = directory / "failpoints"
        environment = {"MONOFS_FAILPOINTS": f"@{self.failpoints}"}
        self.node = ServedNode(str(directory / "home"), sets=["worker.quota=1GiB"], environment=environment).start()
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
                self.undisturbed(name, fs)
                said = self.node.output()[said_before:]
            self._passed[name] = re.findall(r"^failpoint (\S+)$", said, re.MULTILINE)
        return self._passed[name]

    def connect(self) -> Any:
        return monofs.connect(self.node.doors["rpc"], timeout_s=CLIENT_S)

    def died(self) -> bool:
        assert self.node.process is not None
        return self.node.process.poll() is not None

    def trial(self, name: str, fs: Any) -> Trial:
        number = next(self._numbers)
        return Trial(name, fs, f"/m{number}", self.make_place(f"p{number}"))

    def undisturbed(self, name: str, fs: Any) -> None:
        """Do it, telling every failpoint."""
        trial = self.trial(name, fs)
        self.arm("*=tell")
        answer = trial.act()
        converged(fs)
        self.arm("")
        assert answer is None, answer
        trial.check(answer)

    def killed(self, trial: Trial, failpoint: str, passing: int) -> None:
        """Do it, see the node die there, start it again, and let the client finish. How often jobs pass a step is a matter of timing: only the first
        passing is sure to come."""
        self.arm(f"{failpoint}=kill@{passing}")
        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(trial.act)
            try:
                self.wait_for_end(acting)
                assert passing > 1 or self.died(), "the failpoint was not passed this time"
            finally:
                self.arm("")
                if self.died():
                    self.node.start()
            answer = acting.result(2 * CLIENT_S)
        converged(trial.fs)
        trial.check(answer)

    def is_at_work(self) -> bool:
        """Asked of a client that gives up soon."""
        try:
            with monofs.connect(self.node.doors["rpc"], timeout_s=1) as fs:
                return bool(owed(fs))
        except MonofsError:
            return True

    def wait_for_end(self, acting: Future[object]) -> None:
        """Of the node, or else of the change."""
        until(lambda: self.died() or (acting.done() and not self.is_at_work()), "the node to die")


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
    found = {name for text in sources for name in re.findall(r'(?:failpoint|step)\("([^"]+)"\)', text)}
    return {
        name for name in found if not name.startswith("install.")
    }  # of databases: no change passes them, their own suites do


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
                    ground.killed(ground.trial(name, fs), failpoint, passing)
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
        trial = s3.trial(name, fs)
        s3.arm(f"{first}=kill")
        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(trial.act)
            s3.wait_for_end(acting)
            assert s3.died(), "the failpoint was not passed this time"
            s3.arm(f"{failpoint}=kill")
            s3.node.start()
            until(lambda: s3.died() or not s3.is_at_work(), "the node to die again, or to finish")
            s3.arm("")
            if s3.died():
                s3.node.start()
            answer = acting.result(2 * CLIENT_S)
        converged(fs)
        trial.check(answer)
