"""Random operations of three clients on one tree, with changes of the store behind its back, against a plain model.

After every burst the node comes to rest and everything below the mount is looked at: the tree is the model's, the store holds exactly the
files that are persisted, all bytes are equal, nothing is left behind and every invariant holds. Operations done at the same time must
be explained by some order of them; ``Busy`` counts as not done.

Seed and number of examples: TEST_SEED, MONOFS_TEST_EXAMPLES (of the local store; a third of them over the S3 server).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from tree_model import (
    Copy,
    Delete,
    File,
    List,
    MakeDirectory,
    Operation,
    Read,
    RemoveTree,
    Rename,
    Stat,
    Touch,
    Tree,
    Write,
    above,
    explanations,
    is_below,
)
from write_world import Directory, Place, Prefix, broken, converged, disagreements, synced, tree_of

from monofs.model.errors import Busy, MonofsError
from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
EXAMPLES = int(os.environ.get("MONOFS_TEST_EXAMPLES", "24"))
STEPS = 25
CLIENTS = 3
MIB = 1 << 20
SETTINGS = ["namespace.sync_interval_s=-1", "worker.quota=1GiB"]

NAMES = ["a", "b é%2F+"]
PATHS = [
    *NAMES,
    *(f"{one}/{two}" for one in NAMES for two in NAMES),
    *(f"{one}/{two}/{three}" for one in NAMES for two in NAMES for three in NAMES),
]
SIZES = [0, 1, 100, 100, 100, 5000, MIB + 1, 8 * MIB + 1]
"""The last takes two parts."""

paths = st.sampled_from(PATHS)
clients = st.integers(0, CLIENTS - 1)
datas = st.builds(lambda size, mark: bytes([mark]) * size, st.sampled_from(SIZES), st.integers(1, 255))
changes: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Write, paths, datas, st.sampled_from(["CACHE_THROUGH", "THROUGH"]), st.booleans()),
    st.builds(Write, paths, datas, st.just("MUST_CACHE")),
    st.builds(Delete, paths),
    st.builds(RemoveTree, paths),
    st.builds(Rename, paths, paths),
    st.builds(MakeDirectory, paths, st.booleans()),
    st.builds(Copy, paths, paths),
    st.builds(Touch, paths),
)
looks: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Read, paths),
    st.builds(Read, paths, st.integers(0, 6000), st.integers(0, 5000)),
    st.builds(Stat, paths),
    st.builds(List, st.sampled_from(["", *PATHS])),
)


class World:
    """A node, three clients, and fresh places to mount, one an example."""

    def __init__(self, node: ServedNode, make_place: Callable[[int], Place]) -> None:
        self.node, self._make_place = node, make_place
        self.clients: list[Any] = [node.connect() for _ in range(CLIENTS)]
        self.pool = ThreadPoolExecutor(CLIENTS)
        self._numbers = count(1)

    def fresh(self) -> tuple[str, Place]:
        number = next(self._numbers)
        place = self._make_place(number)
        at = f"/m{number}"
        self.clients[0].mount_add(at, place.uri, place.options)
        return at, place

    def close(self) -> None:
        self.pool.shutdown()
        for client in self.clients:
            client.close()


class Machine(RuleBasedStateMachine):
    """One tree below one mount. A subclass gives the ``world``."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.at, self.place = self.world.fresh()
        self.fs = self.world.clients[0]
        self.tree = Tree()
        self.failed = False

    def act(self, client: int, operation: Operation) -> Any:
        try:
            return operation.act(self.world.clients[client], self.at)
        except MonofsError as error:
            return error

    def explain(self, pairs: list[tuple[Operation, Any]]) -> list[Tree]:
        done = [(operation, answer) for operation, answer in pairs if not isinstance(answer, Busy)]
        found = explanations(self.tree, done, flat=self.place.flat)
        self.check(found, f"{pairs} cannot be explained by {self.tree}")
        return found

    def check(self, condition: object, what: str) -> None:
        """Assert, and remember not to look again at the end."""
        if not condition:
            self.failed = True
            raise AssertionError(what)

    @rule(client=clients, operation=st.one_of(changes, changes, looks))
    def one(self, client: int, operation: Operation) -> None:
        """One client does one thing, and is never told it is busy: nobody else is at it, or soon will not be."""
        answer = self.act(client, operation)
        self.check(not isinstance(answer, Busy), f"{operation}: {answer!r}")
        found = self.explain([(operation, answer)])
        self.tree = found[0]
        if len(found) > 1:
            self.look(found)

    @rule(operations=st.lists(st.one_of(changes, changes, looks), min_size=2, max_size=CLIENTS))
    def together(self, operations: list[Operation]) -> None:
        """Each client does one thing at the same time."""
        answers = list(self.world.pool.map(self.act, range(len(operations)), operations))
        self.look(self.explain(list(zip(operations, answers, strict=True))))

    @rule(path=paths, data=datas, then=st.one_of(st.none(), changes, looks), client=clients)
    def outside(self, path: str, data: bytes, then: Operation | None, client: int) -> None:
        """Somebody else writes or deletes in the store, and before monofs looks at it a client does something there."""
        if self.may_meet(path, then):
            return
        before = self.tree
        if path in before.files and before.files[path].persisted and data[:1] < b"\x40":
            self.place.delete(path)
            outer = Delete(path)
        elif not self.is_free(path):
            return
        else:
            self.place.put(path, data)
            outer = Write(path, data)
        answer = None if then is None else self.act(client, then)
        converged(self.fs, self.at)
        synced(self.fs, self.at)
        self.take_over(outer, then, answer)

    def may_meet(self, path: str, then: Operation | None) -> bool:
        """Whether a file that somebody else writes may come to lie beside a directory of its name: nobody looks at what is known (the interval is -1), and a
        path cannot tell the two apart."""
        if then is None:
            return False
        is_directory = isinstance(then, MakeDirectory) or any(each in self.tree.directories for each in then.paths())
        return any(
            is_below(each, path) or is_below(path, each) or (each == path and is_directory) for each in then.paths()
        )

    def is_free(self, path: str) -> bool:
        """Whether somebody else may write there without a conflict of kinds, which no order of the two could explain."""
        tree = self.tree
        blocked = path in tree.directories or any(each in tree.files for each in above(path))
        return not blocked and bool(tree.files.get(path, File(b"")).persisted)

    def take_over(self, outer: Operation, then: Operation | None, answer: Any) -> None:
        """After a look at the store: every path the two touched holds what one of them, or what was before, gave it."""
        trees = [self.tree]
        with_outer = [outer.apply(self.tree, flat=self.place.flat)[0]]
        if then is not None:
            for base in (self.tree, *with_outer):
                trees += [after for after, _ in _any_outcomes(base, then, flat=self.place.flat)]
        trees += with_outer + [outer.apply(each, flat=self.place.flat)[0] for each in trees]
        touched = [outer.paths()[0], *(then.paths() if then is not None else [])]
        files, directories, unpersisted = tree_of(self.fs, self.at)
        problems = disagreements(self.fs, self.at, self.place)
        self.check(not problems, f"{outer}, {then}: {answer!r}: {problems}")
        if isinstance(then, Write) and answer is None:
            self.check(files.get(then.path) == then.data, f"{outer}, {then} was acknowledged: {files.keys()}")
        for path in files.keys() | self.tree.files.keys():
            held = [tree.files[path].data if path in tree.files else None for tree in trees]
            near = any(path == each or is_below(path, each) for each in touched)
            expected = held if near else held[:1]
            self.check(files.get(path) in expected, f"{outer}, {then}: {answer!r}: {path}: {files.get(path)!r:.50}")
        sure = frozenset.union(*(tree.sure for tree in trees)) & directories
        if not self.place.flat:
            sure |= directories
        kept = {path: File(data, path not in unpersisted) for path, data in files.items()}
        self.tree = Tree(kept, frozenset(sure), frozenset(directories) - sure)

    @rule()
    def settle(self) -> None:
        """At rest and looked at, all is as the model says."""
        self.look([self.tree])

    def look(self, trees: list[Tree]) -> None:
        """At rest, the tree is one of ``trees``, and so it stays when the whole store is looked at."""
        converged(self.fs, self.at)
        trees = self.seen(trees)
        synced(self.fs, self.at)
        (self.tree, *_) = self.seen(trees)
        problems = disagreements(self.fs, self.at, self.place)
        self.check(not problems, f"{problems}; {self.tree}")

    def seen(self, trees: list[Tree]) -> list[Tree]:
        files, directories, unpersisted = tree_of(self.fs, self.at)
        problems = [each.shape_problems(files, directories, unpersisted) for each in trees]
        self.check([] in problems, f"{problems}; {trees}")
        right = [each for each, wrong in zip(trees, problems, strict=True) if not wrong]
        return [each.seen(directories, unpersisted) for each in right]

    @rule(path=paths, pinned=st.booleans())
    def pin(self, path: str, pinned: bool) -> None:
        """Steering the cache changes nothing."""
        if path in self.tree.files:
            self.fs.set_pin(f"{self.at}/{path}", pinned)

    @rule(force=st.booleans(), client=clients)
    def free(self, force: bool, client: int) -> None:
        """Bytes that no store has stay."""
        self.world.clients[client].free(self.at, recursive=True, force=force)

    @rule(path=st.sampled_from(["", *PATHS]), client=clients)
    def needs_sync(self, path: str, client: int) -> None:
        """Distrust changes nothing that is true."""
        if path == "" or path in self.tree.files:
            self.world.clients[client].needs_sync(f"{self.at}/{path}".rstrip("/"))

    def teardown(self) -> None:
        if not self.failed:
            self.look([self.tree])
            problems = broken(self.fs)
            assert not problems, problems
        self.fs.mount_remove(self.at, discard=True)


def _any_outcomes(tree: Tree, operation: Operation, *, flat: bool) -> Iterator[tuple[Tree, Any]]:
    for gone in (frozenset[str](), tree.uncertain()):
        yield operation.apply(tree.without(gone), flat=flat)


def run(world: World, examples: int) -> None:
    """Run the machine over ``world``."""
    number = int(os.environ.get("TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {number}: TEST_SEED={number} repeats it")

    class Here(Machine):
        pass

    Here.world = world
    bounds = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    try:
        run_state_machine_as_test(seed(number)(Here), settings=bounds)
    finally:
        world.close()


def test_a_tree_over_a_directory_is_as_the_model_says(serve: Callable[..., ServedNode], tmp_path: Path) -> None:
    run(World(serve(*SETTINGS), lambda number: Directory(str(tmp_path / f"store{number}"))), EXAMPLES)


@pytest.mark.ceph
def test_a_tree_over_an_s3_server_is_as_the_model_says(serve: Callable[..., ServedNode], bucket: Any) -> None:
    run(World(serve(*SETTINGS), lambda number: Prefix(bucket, f"p{number}")), max(1, EXAMPLES // 3))


def test_the_model_knows_that_an_empty_prefix_may_be_gone() -> None:
    tree = Tree({"a/b/f": File(b"x")}, frozenset({"s"}), frozenset({"a", "a/b"}))
    (after,) = explanations(tree, [(Delete("a/b/f"), None)], flat=True)
    assert after == replace(tree, files={})
    assert len(explanations(after, [(MakeDirectory("a/b/c"), None)], flat=True)) == 1
    assert explanations(after, [(List(""), ["a/", "s/"]), (List("a"), ["b/"])], flat=True)
    assert not explanations(after, [(List(""), ["a/"])], flat=True)
    assert not explanations(replace(tree, files=tree.files), [(List("a"), [])], flat=True)
