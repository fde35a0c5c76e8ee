"""Every kind of change, each on a fresh mount, with all that may be seen of it before and after; for suites that break something in between.

Invariant: the files of a change lie in the store before monofs knows of them, so that preparing it passes through nothing that is to break.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from write_world import Place, broken, disagreements, synced, tree_of, until

from monofs.model.errors import MonofsError, UfsPaused

MIB = 1 << 20
SMALL, OTHER, LARGE = b"s" * 1000, b"other" * 500, random.Random(1).randbytes(17 * MIB + 3)
"""The last takes three parts."""


@dataclass(frozen=True)
class Change:
    """One change and all that may be seen of it: the files ``before`` and ``after``, which lie in the store before monofs knows of it."""

    act: Callable[[Any, str], object]
    before: dict[str, bytes] = field(default_factory=dict)
    after: dict[str, bytes] = field(default_factory=dict)
    directories: frozenset[str] = frozenset()
    """Empty ones that are there once it was acknowledged."""
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
    "write parts to the cache only": Change(
        lambda fs, at: upload(fs, f"{at}/d/f", LARGE, write_type="MUST_CACHE"), KEPT, KEPT | {"d/f": LARGE}
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


class Trial:
    """One change on a fresh mount of ``place`` at ``at``."""

    def __init__(self, name: str, fs: Any, at: str, place: Place) -> None:
        self.change, self.fs, self.at, self.place = CHANGES[name], fs, at, place
        for file, data in self.change.before.items():
            place.put(file, data)
        fs.mount_add(at, place.uri, place.options)
        synced(fs, at)
        self.change.prepare(fs, at)

    def act(self) -> object:
        """Do it; None, or the error."""
        try:
            self.change.act(self.fs, self.at)
        except MonofsError as error:
            return error
        return None

    def check(self, answer: object) -> None:
        """At rest: it was done wholly if it was acknowledged, else wholly or not at all; and all can be used again."""
        files, directories = self.look()
        if answer is None:
            assert files == self.change.after, f"it was acknowledged: {files.keys()}"
            assert self.change.directories <= directories
        else:
            assert files in self.allowed(), f"half of it was done: {files.keys()}, {answer!r}"
        self.finish()

    def allowed(self) -> list[dict[str, bytes]]:
        """All, nothing, or the first of several steps that are changes of their own."""
        if self.change is CHANGES["write below a renamed tree"]:
            renamed = tree("u")
            return [self.change.before, renamed, renamed | {"u/f0": OTHER}, self.change.after]
        return [self.change.before, self.change.after]

    def look(self) -> tuple[dict[str, bytes], set[str]]:
        """The tree's files and directories; tree and store agree, also after a look at the whole store."""
        files, _, _ = tree_of(self.fs, self.at)
        assert not disagreements(self.fs, self.at, self.place)
        synced(self.fs, self.at)
        again, directories, _ = tree_of(self.fs, self.at)
        assert again == files
        return files, directories

    def write_again(self, path: str) -> bool:
        """A store that failed again and again is not asked for a second."""
        try:
            self.fs.write(f"{self.at}/{path}", b"again")
        except UfsPaused:
            return False
        return True

    def finish(self) -> None:
        """Every path can be changed again; every invariant holds."""
        for path in {*self.change.before, *self.change.after}:
            until(partial(self.write_again, path), "its store to be written again")
        files, _, _ = tree_of(self.fs, self.at)
        assert all(files[path] == b"again" for path in {*self.change.before, *self.change.after})
        assert not disagreements(self.fs, self.at, self.place)
        assert not broken(self.fs)
        self.fs.mount_remove(self.at)
