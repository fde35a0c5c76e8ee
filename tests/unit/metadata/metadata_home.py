"""A namespace over a real store, driven by hand: the flusher's calls wait in a queue until a test runs them."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monofs.config.schema import NamespaceConfig
from monofs.metadata.entries import (
    AddMount,
    AdoptPage,
    AdoptPath,
    Change,
    Create,
    Delete,
    Found,
    Initialize,
    MakeDirectory,
    Moved,
    MovedFile,
    RemoveTree,
    Rename,
    RenameTree,
    Stamp,
    UpdateJob,
)
from monofs.metadata.entry_kinds import encode_entry
from monofs.metadata.fsck import check_namespace
from monofs.metadata.intent_entries import (
    Asker,
    BeginCopy,
    BeginDelete,
    BeginMakeDirectory,
    BeginRename,
    BeginWrite,
    End,
)
from monofs.metadata.namespace import Namespace
from monofs.metadata.store import Store
from monofs.metadata.tables import Intent, decode_intent
from monofs.model.entry import Entry
from monofs.model.errors import MonofsError
from monofs.model.inode import Inode, decode_inode
from monofs.model.mount import Mount
from monofs.model.paths import parse_path

CLUSTER = b"c" * 16
NOBODY = Asker()


class Home:
    """One namespace directory that can be flushed, closed, lost and opened again, with every entry it was given."""

    def __init__(self, directory: Path, **config: Any) -> None:
        self.directory = str(directory)
        self.config = NamespaceConfig(**{"flush_interval_s": 3600.0, **config})
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.flushed: list[int] = []
        self.failures: list[BaseException] = []
        self.log: list[Entry] = []
        self.clock_ns = 0
        self.open()

    def open(self) -> None:
        """Open the store and replay the entries it does not hold."""
        self.store = Store(
            self.directory,
            self.config,
            call_soon=self.calls.put,
            on_flushed=self.flushed.append,
            on_failure=self.failures.append,
        )
        self.namespace = Namespace(self.store)
        for index in range(self.namespace.applied_index + 1, len(self.log) + 1):
            self.namespace.apply(index, 1, self.log[index - 1])

    def close(self) -> None:
        """Stop cleanly."""
        self.store.close()

    def lose_memory(self) -> None:
        """Stop as kill -9 does: what was not flushed is gone from the database."""
        self.settle()
        self.store._closed = True
        self.store._flusher.stop()
        self.store._disk.close()
        self.store._environment.close()

    def flush(self) -> None:
        """Write everything applied so far to the database."""
        self.settle()
        if self.store.flush():
            self.settle()

    def settle(self) -> None:
        """Wait for the flush in progress, if any, and run what it calls."""
        while self.store._frozen is not None and not self.failures:
            self.calls.get(timeout=30)()

    def apply(self, change: Change) -> Any:
        """Apply one change at the next index."""
        entry = encode_entry(change)
        self.log.append(entry)
        return self.namespace.apply(len(self.log), 1, entry)

    def stamp(self, client: bytes = b"", sequence: int = 0, lowest: int = 0) -> Stamp:
        """A stamp one microsecond after the one before."""
        self.clock_ns += 1000
        return Stamp(self.clock_ns, client, sequence, lowest)

    # ---- changes in short

    def initialize(self, incarnation: int = 1) -> None:
        assert self.apply(Initialize(self.stamp(), CLUSTER, incarnation, b"data key", b"capability key")) is None

    def mkdir(self, path: str, *, parents: bool = False, exist_ok: bool = False) -> Any:
        return self.apply(MakeDirectory(self.stamp(), path, 0o755, 1, 2, parents, exist_ok))

    def create(self, path: str) -> Any:
        return self.apply(Create(self.stamp(), path, 0o640, 1, 2))

    def delete(self, path: str) -> Any:
        return self.apply(Delete(self.stamp(), path))

    def rename(self, source: str, target: str) -> Any:
        return self.apply(Rename(self.stamp(), source, target))

    def mount(self, path: str, *, readonly: bool = False, ufs_mode: str = "readWrite") -> Any:
        uri = f"s3://bucket{path}"
        return self.apply(AddMount(self.stamp(), path, uri, {}, b"", readonly, False, None, ufs_mode))

    def adopt(
        self,
        path: str,
        found: list[Found],
        *,
        mount: Mount | None = None,
        read_index: int | None = None,
        after: bytes = b"",
        through: bytes | None = None,
        complete: bool = True,
        sort: bool = True,
    ) -> Any:
        """Adopt a page of the directory at ``path``; by default sorted, and speaking for all names."""
        if sort:
            found = sorted(found, key=lambda entry: entry.name + b"/" * entry.is_directory)
        directory = self.inode(path)
        return self.apply(
            AdoptPage(
                self.stamp(),
                directory.id,
                self.covering(path).id if mount is None else mount.id,
                len(self.log) if read_index is None else read_index,
                after,
                through,
                found,
                complete,
            )
        )

    def adopt_path(
        self,
        path: str,
        file: Found | None = None,
        directory: Found | None = None,
        *,
        mount: Mount | None = None,
        read_index: int | None = None,
    ) -> Any:
        """Adopt what was found at ``path``."""
        return self.apply(
            AdoptPath(
                self.stamp(),
                path,
                self.covering(path).id if mount is None else mount.id,
                len(self.log) if read_index is None else read_index,
                file,
                directory,
            )
        )

    # ---- intents in short: what is refused comes back as its error

    def begin(self, change: Change) -> Any:
        """The intent a BEGIN entry opened."""
        result = self.apply(change)
        return decode_intent(result) if isinstance(result, bytes) else result

    def begin_write(
        self,
        path: str,
        *,
        size: int = 10,
        write_type: str = "CACHE_THROUGH",
        parents: bool = True,
        exclusive: bool = False,
        if_match: str | None = None,
        asker: Asker = NOBODY,
    ) -> Any:
        return self.begin(
            BeginWrite(self.stamp(), path, 0o600, parents, exclusive, if_match, size, write_type, 1, asker)
        )

    def begin_delete(self, path: str, asker: Asker = NOBODY) -> Any:
        return self.begin(BeginDelete(self.stamp(), path, asker))

    def begin_rename(self, source: str, target: str, asker: Asker = NOBODY) -> Any:
        return self.begin(BeginRename(self.stamp(), source, target, asker))

    def begin_mkdir(self, path: str, *, parents: bool = False, exist_ok: bool = False) -> Any:
        return self.begin(BeginMakeDirectory(self.stamp(), path, 0o700, parents, exist_ok, NOBODY))

    def begin_copy(self, source: str, target: str, *, parents: bool = False, exclusive: bool = False) -> Any:
        return self.begin(BeginCopy(self.stamp(), source, target, parents, exclusive, NOBODY))

    def end(self, intent: Intent, found: Found | None, *, size: int | None = None, stamp: Stamp | None = None) -> Any:
        """End an intent; worker 1 has what no store has."""
        told = max(intent.size, 0) if size is None else size
        return self.apply(End(stamp or self.stamp(), intent.number, found, told, [1] if found is None else []))

    def write(self, path: str, version: str = "1", size: int = 10) -> Any:
        """A file below a mount, written whole."""
        intent = self.begin_write(path, size=size)
        if isinstance(intent, MonofsError):
            return intent
        return self.end(intent, file(path.rpartition("/")[2], version, size))

    def keep(self, path: str, size: int = 10) -> Any:
        """A file that no store has."""
        intent = self.begin_write(path, size=size, write_type="MUST_CACHE")
        return intent if isinstance(intent, MonofsError) else self.end(intent, None)

    def remove_tree(self, path: str) -> Any:
        return self.apply(RemoveTree(self.stamp(), path, "ann"))

    def rename_tree(self, source: str, target: str) -> Any:
        return self.apply(RenameTree(self.stamp(), source, target, "ann"))

    def moved(self, number: int, *paths: str) -> Any:
        """Tell that the files at ``paths`` were copied to where their paths say."""
        files = []
        for path in paths:
            inode, found = self.inode(path), self.namespace.lookup(parse_path(path))
            assert found.parent is not None
            name = parse_path(path)[-1]
            files.append(
                MovedFile(found.parent.id, name, inode.content, self.key(path), self.natural(path), "e:moved", 10**18)
            )
        return self.apply(Moved(self.stamp(), number, files))

    def finish_move(self, number: int) -> Any:
        """Tell that the old objects are deleted, and that nothing is left."""
        self.apply(UpdateJob(self.stamp(), number, doomed=[]))
        return self.apply(Moved(self.stamp(), number, [], True))

    def update_job(self, number: int, **fields: Any) -> Any:
        return self.apply(UpdateJob(self.stamp(), number, **fields))

    # ---- looking

    def key(self, path: str) -> str:
        """Where a path's object lies."""
        located = self.namespace.lookup(parse_path(path)).located
        assert located is not None
        return located.key

    def natural(self, path: str) -> str:
        """Where the path says its object lies."""
        located = self.namespace.natural_key(parse_path(path))
        assert located is not None
        return located.key

    def covering(self, path: str) -> Mount:
        located = self.namespace.lookup(parse_path(path)).located
        assert located is not None
        return located.mount

    def inode(self, path: str) -> Inode:
        inode = self.namespace.lookup(parse_path(path)).inode
        assert inode is not None, path
        return inode

    def exists(self, path: str) -> bool:
        return self.namespace.lookup(parse_path(path)).inode is not None

    def names(self, path: str) -> list[bytes]:
        return [name for name, _ in self.namespace.children(self.inode(path).id, b"", 1 << 20)]

    def tree(self) -> dict[str, Inode]:
        """Every key reachable from the root, as its path (directories end in ``/``)."""
        found: dict[str, Inode] = {}
        pending = [("/", self.inode("/"))]
        while pending:
            path, inode = pending.pop()
            found[path] = inode
            if inode.is_directory:
                for name, raw in self.namespace.children(inode.id, b"", 1 << 20):
                    pending.append((path + name.decode(), decode_inode(raw)))
        return found

    def findings(self) -> dict[str, list[str]]:
        """What fsck has to say: only the checks that do not hold."""
        return {name: found for name, found in check_namespace(self.store).items() if found}


def file(name: str | bytes, version: str = "1", size: int = 10, mtime_ns: int = 10**18) -> Found:
    """A file as a store shows it."""
    raw = name.encode() if isinstance(name, str) else name
    return Found(raw, is_directory=False, size=size, mtime_ns=mtime_ns, fingerprint=f"e:{version}")


def directory(name: str | bytes) -> Found:
    """A directory as a store shows it."""
    return Found(name.encode() if isinstance(name, str) else name, is_directory=True)


def refused(result: Any, error: type[MonofsError]) -> bool:
    """Whether a result is a refusal of exactly this kind, with a sentence to read."""
    assert isinstance(result, MonofsError), result
    assert type(result) is error, result
    return bool(str(result))
