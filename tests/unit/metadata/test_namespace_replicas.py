"""Random changes against a plain model, on two replicas that flush, close and crash at different moments."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from metadata_home import Home, directory, file

from monofs.metadata import sessions
from monofs.metadata.entries import AdoptPage, Create, RemoveBelow, RemoveMount, SetPin
from monofs.metadata.entry_kinds import encode_entry
from monofs.metadata.snapshot import open_offline
from monofs.model.errors import MonofsError, Overloaded
from monofs.model.paths import parse_path

NAMES = st.sampled_from(["a", "b", "a.b", "a b", "ü"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
LISTING = st.dictionaries(NAMES, st.sampled_from(["file 1", "file 2", "empty", "directory"]), max_size=5)


class Replicas(RuleBasedStateMachine):
    """``model`` holds the cache-only part: path to "file" or "directory"; ``lake`` what the listed directory of the mount holds."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.home = Home(Path(self.place.name) / "one", flush_changes=40)
        self.other = Home(Path(self.place.name) / "two")
        self.model = {"/": "directory"}
        self.lake: dict[str, str] | None = None
        self.mount: Any = None
        self.client = b""
        self.clients = itertools.count(1)
        self.numbers = itertools.count(1)
        self.held = sessions.ANSWERS_MAX
        sessions.ANSWERS_MAX = 12
        self.answers: dict[int, Any] = {}
        self.home.initialize()

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.follow()
            sessions.ANSWERS_MAX = self.held
            self.other.flush()
            assert self.other.tree() == self.home.tree()
            assert self.other.findings() == {}
            self.home.close()
            self.other.close()
            with open_offline(self.home.directory) as one, open_offline(self.other.directory) as two:
                assert one.meta() == two.meta()
            self.place.cleanup()

    def follow(self) -> None:
        """Bring the second replica up to the first."""
        for entry in self.home.log[len(self.other.log) :]:
            self.other.log.append(entry)
            self.other.namespace.apply(len(self.other.log), 1, entry)
        assert self.other.namespace.crc == self.home.namespace.crc

    def parent_is_directory(self, path: str) -> bool:
        return self.model.get(path.rpartition("/")[0] or "/") == "directory"

    # ---- cache-only changes

    @rule(path=PATHS, parents=st.booleans())
    def make_directory(self, path: str, parents: bool) -> None:
        result = self.home.mkdir(path, parents=parents)
        names = path.split("/")[1:]
        ancestors = ["/" + "/".join(names[:depth]) for depth in range(1, len(names))]
        possible = path not in self.model and all(self.model.get(at, "none") != "file" for at in ancestors)
        if not parents:
            possible = possible and self.parent_is_directory(path)
        assert isinstance(result, MonofsError) != possible
        if possible:
            for at in [*ancestors, path]:
                self.model[at] = "directory"

    @rule(path=PATHS)
    def create(self, path: str) -> None:
        result = self.home.create(path)
        possible = path not in self.model and self.parent_is_directory(path)
        assert isinstance(result, MonofsError) != possible
        if possible:
            self.model[path] = "file"

    @rule(path=PATHS)
    def create_with_retry(self, path: str) -> None:
        if self.client not in self.home.namespace.clients():
            self.client, self.sequence = b"client %d" % next(self.clients), itertools.count(1)
        client, sequence = self.client, next(self.sequence)
        lowest = max(1, sequence - 3)
        result = self.home.apply(Create(self.home.stamp(client, sequence, lowest), path, 0o644, 0, 0))
        if isinstance(result, Overloaded):
            self.client = b""
            return
        self.answers[sequence] = repr(result)
        if not isinstance(result, MonofsError):
            self.model[path] = "file"
        for earlier in range(lowest, sequence + 1):
            entry = Create(self.home.stamp(client, earlier, lowest), "/retry", 0, 0, 0)
            assert repr(self.home.apply(entry)) == self.answers[earlier]

    @rule(path=PATHS, client=st.sampled_from([b"x", b"y", b"z"]), pause=st.sampled_from([0, sessions.QUIET_NS]))
    def create_as_one_of_many(self, path: str, client: bytes, pause: int) -> None:
        """Of clients that push each other out, and of a clock that stands still."""
        self.home.clock_ns += pause - 1000
        change = Create(self.home.stamp(client, next(self.numbers), 1), path, 0o644, 0, 0)
        if not isinstance(self.home.apply(change), MonofsError):
            self.model[path] = "file"

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        result = self.home.delete(path)
        possible = path in self.model and not any(other.startswith(path + "/") for other in self.model)
        assert isinstance(result, MonofsError) != possible
        if possible:
            del self.model[path]

    @rule(source=PATHS, onto=PATHS)
    def rename(self, source: str, onto: str) -> None:
        result = self.home.rename(source, onto)
        if source == onto:
            assert isinstance(result, MonofsError) == (source not in self.model)
            return
        possible = (
            source in self.model
            and self.parent_is_directory(onto)
            and not onto.startswith(source + "/")
            and self.model.get(onto, self.model[source]) == self.model[source]
            and not any(other.startswith(onto + "/") for other in self.model)
        )
        assert isinstance(result, MonofsError) != possible
        if possible:
            moved = {at: kind for at, kind in self.model.items() if at == source or at.startswith(source + "/")}
            for at in moved:
                del self.model[at]
            self.model.update({onto + at[len(source) :]: kind for at, kind in moved.items()})

    @rule(path=PATHS, pinned=st.booleans())
    def pin(self, path: str, pinned: bool) -> None:
        result = self.home.apply(SetPin(self.home.stamp(), path, pinned))
        assert isinstance(result, MonofsError) == (path not in self.model)

    # ---- a mount

    @precondition(lambda self: self.mount is None)
    @rule()
    def add_mount(self) -> None:
        self.mount = self.home.mount("/lake")
        self.lake = {}

    @precondition(lambda self: self.mount is not None)
    @rule()
    def remove_mount(self) -> None:
        assert self.home.apply(RemoveMount(self.home.stamp(), "/lake")) == []
        assert not self.home.exists("/lake")
        self.mount = self.lake = None

    @precondition(lambda self: self.mount is not None)
    @rule(listing=LISTING)
    def adopt_page(self, listing: dict[str, str]) -> None:
        found = [
            directory(name) if kind == "directory" else file(name, kind[-1:], size=0 if kind == "empty" else 5)
            for name, kind in listing.items()
        ]
        result = self.home.adopt("/lake", found)
        assert sum(result) >= 0
        self.lake = dict(listing)

    @precondition(lambda self: self.lake)
    @rule(data=st.data(), inner=NAMES, present=st.booleans())
    def adopt_path(self, data: st.DataObject, inner: str, present: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.lake or {})))
        if (self.lake or {})[name] == "directory":
            result = self.home.adopt_path(f"/lake/{name}/{inner}", file(inner) if present else None)
            assert isinstance(result, bytes) == present

    @precondition(lambda self: self.lake)
    @rule()
    def adopt_an_old_page(self) -> None:
        point = self.home.inode("/lake")
        old = AdoptPage(self.home.stamp(), point.id, self.mount.id, self.mount.changed_index, b"", None, [], True)
        before = self.home.names("/lake")
        result = self.home.apply(old)
        changed = any(
            self.home.inode(f"/lake/{name}").changed_index <= self.mount.changed_index for name in self.lake or {}
        )
        assert changed or (result == (0, 0, 0) and self.home.names("/lake") == before)

    @rule(limit=st.integers(1, 4))
    def remove_below(self, limit: int) -> None:
        self.home.apply(RemoveBelow(self.home.stamp(), limit))

    # ---- the world

    @rule()
    def flush(self) -> None:
        self.home.flush()

    @rule()
    def begin_a_flush(self) -> None:
        self.home.store.flush()

    @rule()
    def crash(self) -> None:
        self.home.lose_memory()
        self.home.open()

    @rule()
    def restart(self) -> None:
        self.home.close()
        self.home.open()

    @rule()
    def replay(self) -> None:
        for index, entry in enumerate(self.home.log[-5:], max(len(self.home.log) - 4, 1)):
            self.home.namespace.apply(index, 1, entry)

    @rule()
    def replicate(self) -> None:
        self.follow()

    @invariant()
    def the_tree_is_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        tree = self.home.tree()
        wanted = {at if at == "/" else at + "/" * (kind == "directory") for at, kind in self.model.items()}
        assert {path for path in tree if not path.startswith("/lake")} == wanted
        if self.lake is not None:
            listed = {name.decode() for name in self.home.names("/lake")}
            assert listed == {name + "/" * (kind == "directory") for name, kind in self.lake.items()}
        for path, inode in tree.items():
            found = self.home.namespace.lookup(parse_path(path))
            assert found.inode == inode, path
        assert self.home.findings() == {}


Replicas.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestReplicas = Replicas.TestCase


def test_the_same_entries_give_the_same_state_whatever_was_lost_in_between(tmp_path: Path) -> None:
    one, two = Home(tmp_path / "one", flush_changes=7), Home(tmp_path / "two")
    one.initialize()
    one.mount("/m")
    for number in range(60):
        one.adopt("/m", [file(f"{n}", str(number)) for n in range(number % 7)])
        one.mkdir(f"/d{number}")
        one.rename(f"/d{number}", f"/e{number % 5}")
        if number % 11 == 0:
            one.lose_memory()
            one.open()
    for index, entry in enumerate(one.log, 1):
        two.namespace.apply(index, 1, entry)
    assert two.namespace.crc == one.namespace.crc
    assert two.tree() == one.tree()
    for home in (one, two):
        assert home.findings() == {}
        home.close()
    with open_offline(one.directory) as left, open_offline(two.directory) as right:
        assert left.meta() == right.meta()
    assert encode_entry(Create(one.stamp(), "/f", 0, 0, 0)).kind == 31
