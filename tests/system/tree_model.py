"""A plain model of a tree below one mount: what each operation does to names and bytes, and which errors it may meet.

``outcomes`` gives every result an operation may have: usually one. More come from directories of flat stores that hold nothing: such a
prefix exists no longer in the store, and whether the tree still shows it depends on when it looked.

Invariant: pure; a tree is never changed, an operation yields another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations
from typing import Any

from monofs.model.errors import (
    AlreadyExists,
    InvalidArgument,
    IsADirectory,
    MonofsError,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotSupported,
)


def above(path: str) -> list[str]:
    """The directories on the way to ``path``, outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def is_below(path: str, directory: str) -> bool:
    return path.startswith(directory + "/") if directory else bool(path)


@dataclass(frozen=True)
class File:
    """``persisted`` None: either is right."""

    data: bytes
    persisted: bool | None = True

    def __repr__(self) -> str:
        return f"File({len(self.data)} bytes of {self.data[:1]!r}, persisted={self.persisted})"


@dataclass(frozen=True)
class Tree:
    """``sure`` directories stay when they are empty; ``prefixes`` are known as long as something lies below, and may be after."""

    files: dict[str, File] = field(default_factory=dict)
    sure: frozenset[str] = frozenset()
    prefixes: frozenset[str] = frozenset()

    @property
    def directories(self) -> frozenset[str]:
        return self.sure | self.prefixes

    def is_empty(self, directory: str) -> bool:
        return not any(is_below(path, directory) for path in [*self.files, *self.directories])

    def uncertain(self) -> frozenset[str]:
        """Prefixes below which nothing certain lies."""
        certain = [*self.files, *self.sure]
        return frozenset(each for each in self.prefixes if not any(is_below(path, each) for path in certain))

    def without(self, directories: frozenset[str]) -> Tree:
        """This tree where these directories, and what may lie below, are gone."""
        gone = {
            each for each in self.prefixes if each in directories or any(is_below(each, top) for top in directories)
        }
        return replace(self, prefixes=self.prefixes - gone)

    def shape_problems(self, files: dict[str, bytes], directories: set[str], unpersisted: set[str]) -> list[str]:
        """In what a tree that was looked at differs from this one."""
        found = [f"missing file {path}" for path in sorted(self.files.keys() - files.keys())]
        found += [f"unexpected file {path}" for path in sorted(files.keys() - self.files.keys())]
        for path, file in self.files.items():
            if path in files and files[path] != file.data:
                found.append(f"{path} holds {len(files[path])} bytes of {files[path][:1]!r}, not {file}")
            if path in files and file.persisted is (path in unpersisted):
                found.append(f"{path} should be persisted: {file.persisted}")
        needed = self.directories - self.uncertain()
        found += [f"missing directory {path}" for path in sorted(needed - directories)]
        return found + [f"unexpected directory {path}" for path in sorted(directories - self.directories)]

    def seen(self, directories: set[str], unpersisted: set[str]) -> Tree:
        """This tree with what was uncertain as it was looked at."""
        files = {path: replace(file, persisted=path not in unpersisted) for path, file in self.files.items()}
        return Tree(files, self.sure, self.prefixes & frozenset(directories))


@dataclass(frozen=True)
class Result:
    """What came of an operation: a value, or one of some errors."""

    value: Any = None
    errors: tuple[type[MonofsError], ...] = ()

    def allows(self, answer: Any) -> bool:
        if isinstance(answer, MonofsError):
            return isinstance(answer, self.errors)
        return not self.errors and answer == self.value


@dataclass(frozen=True)
class Operation:
    """One call of one client. ``act`` does it on ``base`` in a real tree; ``apply`` in the model."""

    def paths(self) -> list[str]:
        return [value for name, value in vars(self).items() if name in ("path", "target")]

    def act(self, fs: Any, base: str) -> Any:
        raise NotImplementedError

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        raise NotImplementedError


def outcomes(tree: Tree, operation: Operation, *, flat: bool) -> Iterator[tuple[Tree, Result]]:
    """Every tree that ``operation`` may leave, with the result it then has."""
    paths = operation.paths()
    doubtful = [
        each
        for each in sorted(tree.uncertain())
        if any(each == path or is_below(path, each) or is_below(each, path) for path in paths)
    ]
    for count in range(len(doubtful) + 1):
        for gone in combinations(doubtful, count):
            if all(each in gone for each in doubtful if any(is_below(each, other) for other in gone)):
                yield operation.apply(tree.without(frozenset(gone)), flat=flat)


def explanations(tree: Tree, pairs: list[tuple[Operation, Any]], *, flat: bool) -> list[Tree]:
    """The trees that operations done at the same time may have left, given their answers: in some order each is explained."""
    found = []
    for order in permutations(pairs):
        trees = [tree]
        for operation, answer in order:
            trees = [
                after
                for before in trees
                for after, result in outcomes(before, operation, flat=flat)
                if result.allows(answer)
            ]
        found += [each for each in trees if each not in found]
    return found


def _blocked(tree: Tree, path: str) -> list[type[MonofsError]]:
    return [NotADirectory] if any(each in tree.files for each in above(path)) else []


def _absent(tree: Tree, path: str) -> tuple[type[MonofsError], ...]:
    """Why ``path`` cannot be found; empty: it is there."""
    if path == "" or path in tree.files or path in tree.directories:
        return ()
    return (NotFound, *_blocked(tree, path))


def _with_file(tree: Tree, path: str, file: File, *, flat: bool) -> Tree:
    way = frozenset(above(path)) - tree.sure
    made = replace(tree, files=tree.files | {path: file})
    if flat and file.persisted is not False:
        return replace(made, prefixes=tree.prefixes | way)
    return replace(made, sure=tree.sure | way, prefixes=tree.prefixes - way)


@dataclass(frozen=True)
class Write(Operation):
    path: str
    data: bytes
    write_type: str = "CACHE_THROUGH"
    exclusive: bool = False

    def __repr__(self) -> str:
        words = f"{self.path!r}, {len(self.data)} of {self.data[:1]!r}, {self.write_type}"
        return f"Write({words}{', exclusive' if self.exclusive else ''})"

    def act(self, fs: Any, base: str) -> None:
        fs.write(f"{base}/{self.path}", self.data, write_type=self.write_type, exclusive=self.exclusive)

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        errors = _blocked(tree, self.path)
        if self.path in tree.directories:
            errors.append(IsADirectory)
        if self.exclusive and not _absent(tree, self.path):
            errors.append(AlreadyExists)
        if errors:
            return tree, Result(errors=tuple(errors))
        file = File(self.data, self.write_type != "MUST_CACHE")
        return _with_file(tree, self.path, file, flat=flat), Result()


@dataclass(frozen=True)
class Delete(Operation):
    path: str

    def act(self, fs: Any, base: str) -> None:
        fs.delete(f"{base}/{self.path}")

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        if errors := _absent(tree, self.path):
            return tree, Result(errors=errors)
        if self.path in tree.directories and not tree.is_empty(self.path):
            return tree, Result(errors=(NotEmpty,))
        return _removed(tree, self.path), Result()


def _removed(tree: Tree, path: str) -> Tree:
    def stays(other: str) -> bool:
        return other != path and not is_below(other, path)

    return Tree(
        {name: file for name, file in tree.files.items() if stays(name)},
        frozenset(filter(stays, tree.sure)),
        frozenset(filter(stays, tree.prefixes)),
    )


@dataclass(frozen=True)
class RemoveTree(Operation):
    path: str

    def act(self, fs: Any, base: str) -> None:
        fs.remove_tree(f"{base}/{self.path}")

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        errors = _absent(tree, self.path)
        if self.path in tree.files:
            errors = (NotADirectory,)
        return (tree, Result(errors=errors)) if errors else (_removed(tree, self.path), Result())


@dataclass(frozen=True)
class Rename(Operation):
    path: str
    target: str

    def act(self, fs: Any, base: str) -> None:
        fs.rename(f"{base}/{self.path}", f"{base}/{self.target}")

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        errors = [*_absent(tree, self.path), *_blocked(tree, self.target)]
        if self.path == self.target:
            return tree, Result(errors=tuple(errors))
        if is_below(self.target, self.path):
            errors.append(InvalidArgument)
        if any(_absent(tree, each) for each in above(self.target)):
            errors.append(NotFound)
        if self.path in tree.files and self.target in tree.directories:
            errors.append(IsADirectory)
        if self.path in tree.directories:
            if self.target in tree.files:
                errors.append(NotADirectory)
            if not _absent(tree, self.target) and self.target not in tree.files and not tree.is_empty(self.target):
                errors.append(NotEmpty)
        if errors:
            return tree, Result(errors=tuple(errors))
        return self._moved(_removed(tree, self.target)), Result()

    def _moved(self, tree: Tree) -> Tree:
        def name(path: str) -> str:
            here = path == self.path or is_below(path, self.path)
            return self.target + path[len(self.path) :] if here else path

        return Tree(
            {name(path): file for path, file in tree.files.items()},
            frozenset(map(name, tree.sure)),
            frozenset(map(name, tree.prefixes)),
        )


@dataclass(frozen=True)
class MakeDirectory(Operation):
    path: str
    parents: bool = False

    def act(self, fs: Any, base: str) -> None:
        fs.make_directory(f"{base}/{self.path}", parents=self.parents)

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        errors = _blocked(tree, self.path)
        if not _absent(tree, self.path):
            errors.append(AlreadyExists)
        if not self.parents and any(_absent(tree, each) for each in above(self.path)):
            errors.append(NotFound)
        if errors:
            return tree, Result(errors=tuple(errors))
        way = frozenset(above(self.path)) - tree.sure
        made = replace(tree, sure=tree.sure | {self.path}, prefixes=tree.prefixes - {self.path})
        if flat:
            return replace(made, prefixes=made.prefixes | way), Result()
        return replace(made, sure=made.sure | way), Result()


@dataclass(frozen=True)
class Copy(Operation):
    path: str
    target: str

    def act(self, fs: Any, base: str) -> None:
        fs.copy_file(f"{base}/{self.path}", f"{base}/{self.target}")

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        errors = [*_absent(tree, self.path), *_blocked(tree, self.target)]
        if self.path == self.target:
            errors.append(InvalidArgument)
        if {self.path, self.target} & tree.directories:
            errors.append(IsADirectory)
        if errors:
            return tree, Result(errors=tuple(errors))
        source = tree.files[self.path]
        copied = replace(source, persisted=True if source.persisted else None)
        return _with_file(tree, self.target, copied, flat=flat), Result()


@dataclass(frozen=True)
class Touch(Operation):
    """Times of what exists below a mount are the store's."""

    path: str

    def act(self, fs: Any, base: str) -> None:
        fs.touch(f"{base}/{self.path}")

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        if errors := _blocked(tree, self.path):
            return tree, Result(errors=tuple(errors))
        if not _absent(tree, self.path):
            return tree, Result(errors=(NotSupported,))
        return _with_file(tree, self.path, File(b""), flat=flat), Result()


@dataclass(frozen=True)
class Read(Operation):
    """Bytes from ``offset``; ``length`` None: to the end."""

    path: str
    offset: int = 0
    length: int | None = None

    def act(self, fs: Any, base: str) -> bytes:
        return bytes(fs.read(f"{base}/{self.path}", self.offset, self.length))

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        if errors := _absent(tree, self.path):
            return tree, Result(errors=errors)
        if self.path not in tree.files:
            return tree, Result(errors=(IsADirectory,))
        data = tree.files[self.path].data[self.offset :]
        return tree, Result(data if self.length is None else data[: self.length])


@dataclass(frozen=True)
class Stat(Operation):
    path: str

    def act(self, fs: Any, base: str) -> tuple[str, int]:
        info = fs.stat(f"{base}/{self.path}")
        return str(info.kind), info.size

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        if errors := _absent(tree, self.path):
            return tree, Result(errors=errors)
        if self.path in tree.files:
            return tree, Result(("file", len(tree.files[self.path].data)))
        return tree, Result(("directory", 0))


@dataclass(frozen=True)
class List(Operation):
    path: str

    def act(self, fs: Any, base: str) -> list[str]:
        return sorted(fs.names(f"{base}/{self.path}".rstrip("/")))

    def apply(self, tree: Tree, *, flat: bool) -> tuple[Tree, Result]:
        if errors := _absent(tree, self.path):
            return tree, Result(errors=errors)
        if self.path in tree.files:
            return tree, Result(errors=(NotADirectory,))
        start = len(self.path) + 1 if self.path else 0
        children = [
            name for name in [*tree.files, *tree.directories] if is_below(name, self.path) and "/" not in name[start:]
        ]
        return tree, Result(sorted(name[start:] + "/" * (name in tree.directories) for name in children))
