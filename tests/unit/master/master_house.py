"""A real master over a real namespace and journal, asked through the direct channel, with a reactor of its own in a thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from monofs.config.schema import Config
from monofs.journal.single import SingleVoter
from monofs.master.service import Master
from monofs.metadata.namespace import Namespace
from monofs.metadata.store import Store
from monofs.metadata.tables import LEVEL
from monofs.model.inode import Inode
from monofs.model.principal import NODE, Principal
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.direct import DirectClient
from monofs.testing.journal import FlakyJournal
from monofs.testing.reactors import Loop
from monofs.ufs.base import UfsEntry, UfsPage, UnderStorage
from monofs.ufs.registry import open_ufs

SECRET = b"the cluster secret of these tests"
ANSWERS: dict[Method, type[api.Message]] = {
    Method.STAT: api.StatAnswer,
    Method.STAT_MANY: api.StatManyAnswer,
    Method.LIST: api.ListAnswer,
    Method.LIST_KEYS: api.ListKeysAnswer,
    Method.OPEN: api.OpenAnswer,
    Method.OPEN_MANY: api.OpenManyAnswer,
    Method.RENEW: api.RenewAnswer,
    Method.WHY: api.WhyAnswer,
    Method.CLUSTER: api.ClusterAnswer,
    Method.MAKE_DIRECTORY: api.InodeAnswer,
    Method.CREATE: api.InodeAnswer,
    Method.RENAME: api.RenameAnswer,
    Method.COPY: api.InodeAnswer,
    Method.TOUCH: api.InodeAnswer,
    Method.SET_ATTRIBUTES: api.InodeAnswer,
    Method.REMOVE_TREE: api.RemoveTreeAnswer,
    Method.BEGIN_WRITE: api.BeginWriteAnswer,
    Method.BEGIN_UPLOAD: api.BeginUploadAnswer,
    Method.OPEN_PART: api.BeginWriteAnswer,
    Method.COMPLETE_UPLOAD: api.InodeAnswer,
    Method.PUBLISH: api.PublishAnswer,
    Method.END_WRITE: api.InodeAnswer,
    Method.ABANDON_WRITE: api.AbandonWriteAnswer,
    Method.INTENT_LIST: api.IntentListAnswer,
    Method.JOB_ADD: api.JobListAnswer,
    Method.JOB_LIST: api.JobListAnswer,
    Method.JOB_STEER: api.JobListAnswer,
    Method.POLICY_SET: api.PolicyInfo,
    Method.POLICY_LIST: api.PolicyListAnswer,
    Method.COMPARE: api.CompareAnswer,
    Method.SET_PIN: api.InodeAnswer,
    Method.FREE: api.FreeAnswer,
    Method.MOUNT_ADD: api.MountInfo,
    Method.MOUNT_UPDATE: api.MountInfo,
    Method.MOUNT_TEST: api.MountInfo,
    Method.MOUNT_LIST: api.MountListAnswer,
    Method.TOKEN_ADD: api.TokenAddAnswer,
    Method.KEY_ROTATE: api.TokenAddAnswer,
    Method.BUCKET_LIST: api.BucketListAnswer,
    Method.TOKEN_LIST: api.TokenListAnswer,
    Method.MOUNT_REMOVE: api.MountRemoveAnswer,
    Method.REPORT: api.ReportAnswer,
    Method.CONF: api.ConfAnswer,
    Method.FSCK: api.FsckAnswer,
    Method.REGISTER: api.RegisterAnswer,
    Method.HEARTBEAT: api.HeartbeatAnswer,
    Method.DECOMMISSION: api.DecommissionAnswer,
    Method.PING: api.Pong,
}
_decode_inode = msgspec.msgpack.Decoder(Inode).decode


class WatchedStore:
    """A real store whose calls are counted, and that can be told to fail or to wait. Acts and looks after them pass through ``act``."""

    def __init__(self, inner: UnderStorage, watch: Watch) -> None:
        self._inner, self._watch = inner, watch
        self.scheme = inner.scheme

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return partial(self._watch.act, name, found) if callable(found) else found

    def check(self) -> bool:
        self._watch.seen("check")
        return self._inner.check()

    def status(self, key: bytes) -> tuple[UfsEntry | None, UfsEntry | None]:
        self._watch.seen("head")
        file, directory = self._inner.status(key)
        self._watch.done("head")
        return (self._watch.settled(file), directory)

    def list(self, key: bytes, *, after: bytes = b"", limit: int = 1000) -> UfsPage:
        self._watch.seen("list")
        page = self._inner.list(key, after=after, limit=limit)
        self._watch.done("list")
        return replace(page, entries=[self._watch.settled(entry) for entry in page.entries])

    def read(self, key: bytes, offset: int, length: int, fingerprint: str) -> Iterator[memoryview]:
        return self._inner.read(key, offset, length, fingerprint)

    def close(self) -> None:
        self._inner.close()


class Watch:
    """What the stores of a house were asked. ``racy`` False: files made by the test a moment ago count as settled."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.gate: threading.Event | None = None
        self.racy = False
        self.before: dict[str, Callable[[], None]] = {}
        """Name of a call (``head``: status) -> what happens right before it is passed on; what is raised there, it raises."""
        self.after: dict[str, Callable[[], None]] = {}
        """The same, when the store has done it."""

    def seen(self, kind: str) -> None:
        self.asked.append(kind)
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        if kind in self.before:
            self.before[kind]()

    def act(self, name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.seen(name)
        result = call(*arguments, **options)
        self.done(name)
        return result

    def done(self, kind: str) -> None:
        if kind in self.after:
            self.after[kind]()

    def settled(self, entry: Any) -> Any:
        return replace(entry, racy=False) if entry is not None and entry.racy and not self.racy else entry

    def take(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked

    def open_store(self, uri: str, options: dict[str, str], **how: Any) -> UnderStorage:
        return WatchedStore(open_ufs(uri, options, **how), self)


class Held:
    """A place where calls of a store wait."""

    def __init__(self) -> None:
        self._there, self._released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._there.set()
        assert self._released.wait(30)

    def wait_until_there(self) -> None:
        assert self._there.wait(30)

    def release(self) -> None:
        self._released.set()


class House:
    """One master's home; ``restart`` closes and opens it again."""

    def __init__(self, loop: Loop, directory: Path, config: Config, *, flaky: int | None = None) -> None:
        self.loop, self.directory, self.config, self.flaky = loop, directory, config, flaky
        self.watch = Watch()
        self.now_s = 1000.0
        """Monotonic time of freshness and leases: stands still unless a test moves it."""
        self.later_ns = 0
        """How far the wall clock of stamps is ahead."""
        self.secret = SECRET
        self.failures: list[BaseException] = []
        self.at_hand: Any = None
        """The worker of the master's process, from its next start on."""
        self.start()

    def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.loop.do(self._open)
        try:
            self.loop.do(self.master.start)
        except BaseException:
            self.loop.do(self._close)
            raise
        self.client = DirectClient(self.service, NODE)
        self._wait_for_level()

    def _wait_for_level(self) -> None:
        """The leader raises the entry level soon: tests that count entries begin after that."""
        end = time.monotonic() + 30
        while time.monotonic() < end and self.namespace.level < LEVEL and self.flaky is None:
            time.sleep(0.001)

    def _open(self) -> None:
        call_soon = self.loop.reactor.callFromThread
        self.store = Store(
            str(self.directory / "namespace"),
            self.config.namespace,
            call_soon=call_soon,
            on_flushed=lambda index: self.voter.release(index),
            on_failure=self.failures.append,
        )
        self.namespace = Namespace(self.store)
        self.voter = SingleVoter(
            str(self.directory / "journal"),
            self.namespace,
            self.config.journal,
            call_soon=call_soon,
            on_failure=self.failures.append,
        )
        self.voter.start()
        journal: Any = self.voter
        if self.flaky is not None:
            journal = FlakyJournal(
                self.voter, call_soon=lambda act: self.loop.reactor.callLater(0, act), seed=self.flaky
            )
        self.journal = journal
        self.master = Master(
            self.config,
            journal,
            self.namespace,
            reactor=self.loop.reactor,
            secret=self.secret,
            home=str(self.directory),
            settings=list,
            open_store=self.watch.open_store,
            clock=lambda: self.now_s,
            now_ns=lambda: time.time_ns() + self.later_ns,
        )
        self.master.at_hand = self.at_hand
        self.service = self.master.service()

    def _close(self) -> None:
        self.voter.stop()
        self.store.close()

    def stop(self) -> None:
        self.loop.do(self.master.stop)
        self.loop.do(self._close)
        assert self.failures == []

    def restart(self) -> None:
        self.stop()
        self.start()

    # ---- asking -------------------------------------------------------------------------------------------------------

    def ask(self, method: Method, request: api.Message, principal: Principal | None = None) -> Any:
        """The answer as it comes out of a frame."""
        answer = self.begin(method, request, principal)()
        return msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=type(answer))

    def begin(self, method: Method, request: api.Message, principal: Principal | None = None) -> Callable[[], Any]:
        client = self.client if principal is None else DirectClient(self.service, principal)
        return self.loop.begin(client.call, method, request, ANSWERS.get(method, api.Empty))

    def stat(self, path: str, interval_s: float | None = None, load: str = "ONCE") -> Inode:
        answer = self.ask(Method.STAT, api.StatRequest(path, api.ReadOptions(interval_s, load)))
        return _decode_inode(answer.inode)

    def list(self, path: str, interval_s: float | None = None, limit: int = 1000, load: str = "ONCE") -> list[str]:
        """All pages."""
        names: list[str] = []
        after: bytes | None = b""
        while after is not None:
            page = self.ask(Method.LIST, api.ListRequest(path, after, limit, api.ReadOptions(interval_s, load)))
            names += [name.decode() for name in page.names]
            after = page.next
        return names

    def mount(self, path: str, directory: Path, **given: Any) -> api.MountInfo:
        given.setdefault("uri", f"file://{directory}")
        return self.ask(Method.MOUNT_ADD, api.MountAddRequest(path, **given))

    def impatient(self) -> None:
        """From now on changes wait for others of the same path but a moment."""
        self.master._background.mover._locks._busy_wait_s = 0.05

    def hold(self, name: str) -> Held:
        """Let the next calls ``name`` of stores wait before they act."""
        held = Held()
        self.watch.before = {name: held}
        return held

    def hold_answer(self, name: str) -> Held:
        """Let the answers of calls ``name``, as the store is now, wait before they are told."""
        held = Held()
        self.watch.after = {name: held}
        return held

    def resolve(self) -> None:
        """Let the resolver try again now what waits for its next try, until nothing is left to resolve."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if not self.loop.do(self._try_again):
                return
            time.sleep(0.005)
        raise AssertionError("an intent is not resolved")

    def _try_again(self) -> bool:
        at_work = self.master._resolver._at_work
        for timer in [each for each in at_work.values() if each is not None and each.active()]:
            timer.reset(0)
        return bool(at_work)

    def settle(self) -> None:
        """Wait until no intent is being resolved any more."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if not self.loop.do(lambda: any(timer is None for timer in self.master._resolver._at_work.values())):
                return
            time.sleep(0.005)
        raise AssertionError("an intent is being resolved for too long")

    def asked(self) -> list[str]:
        """What the stores were asked since the last time, background pages included."""
        self.loop.do(lambda: None)
        return self.watch.take()


def write(path: Path, data: bytes) -> None:
    """A file whose times are well in the past and differ between contents."""
    path.write_bytes(data)
    stamp = time.time_ns() - 3600 * 10**9
    os.utime(path, ns=(stamp, stamp))
