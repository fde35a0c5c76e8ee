"""Acts on an S3 server behind a proxy that refuses, loses answers, delivers late and twice: the error is right, and ``look`` tells the truth."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from ufs_worlds import S3Root, S3World, file_of, read_all, views

from monofs.model.errors import (
    MonofsError,
    UfsBadBody,
    UfsChanged,
    UfsDenied,
    UfsFailed,
    UfsFull,
    UfsThrottled,
    UfsUnreachable,
)
from monofs.testing.storeproxy import Fault, StoreProxy
from monofs.ufs import s3_uploads
from monofs.ufs.base import ANYTHING, Condition, UnderStorage, may_be_done
from monofs.ufs.registry import open_ufs

MIB = 1 << 20
ABSENT = Condition(absent=True)
PLAIN, ODD = b"d/plain", b"d/odd//key"
_operations = itertools.count(1)


def new() -> str:
    return f"fault-{next(_operations)}"


@dataclass(frozen=True)
class Case:
    """One act: how it is made ready, asked for, and which request of the proxy's is the one that does it."""

    name: str
    key: bytes
    fault: Fault
    prepare: Callable[[UnderStorage, bytes, str], Callable[[UnderStorage], object]]
    makes: bool = True


def _put(store: UnderStorage, key: bytes, operation: str) -> Callable[[UnderStorage], object]:
    return lambda actor: actor.put(key, views(b"bytes"), operation, ABSENT)


def _complete(store: UnderStorage, key: bytes, operation: str) -> Callable[[UnderStorage], object]:
    upload = store.begin_upload(key, operation)
    parts = [store.put_part(key, upload, 1, 0, views(b"bytes"))]
    return lambda actor: actor.complete_upload(key, upload, parts, 5, operation, ABSENT)


def _copy(store: UnderStorage, key: bytes, operation: str) -> Callable[[UnderStorage], object]:
    source = store.put(b"source", views(b"bytes"), new(), ANYTHING)
    return lambda actor: actor.copy(b"source", source.fingerprint, key, operation, ABSENT)


def _delete(store: UnderStorage, key: bytes, operation: str) -> Callable[[UnderStorage], object]:
    store.put(key, views(b"bytes"), operation, ABSENT)
    return lambda actor: actor.delete(key)


def _delete_many(store: UnderStorage, key: bytes, operation: str) -> Callable[[UnderStorage], object]:
    store.put(key, views(b"bytes"), operation, ABSENT)
    return lambda actor: actor.delete_many([key, b"missing"])


CASES = [
    Case("put", PLAIN, Fault(kind="put"), _put),
    Case("own put", ODD, Fault(kind="put"), _put),
    Case("complete", PLAIN, Fault(kind="post", query="uploadId="), _complete),
    Case("copy", PLAIN, Fault(kind="put"), _copy),
    Case("delete", PLAIN, Fault(kind="delete"), _delete, makes=False),
    Case("delete_many", PLAIN, Fault(kind="post", query="delete="), _delete_many, makes=False),
]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture
def broken(proxied: tuple[StoreProxy, S3World]) -> Iterator[tuple[StoreProxy, S3Root]]:
    """A proxy without rules, and a root whose store knows what its server honours."""
    proxy, world = proxied
    root = world.root()
    root.store.put(b"warm", views(b"x"), new(), ABSENT)
    proxy.forget()
    yield proxy, root
    proxy.clear()


def impatient(proxy: StoreProxy, root: S3Root) -> UnderStorage:
    """The same store with little patience; the server may be slow, so anything asked of it may have to be asked again."""
    options = {"endpoint": proxy.endpoint, "access_key": "AKIAMAIN", "secret_key": "secretmain"}
    return open_ufs(root.uri, options, timeout_s=0.2)


def is_done(case: Case, store: UnderStorage, operation: str) -> bool:
    """What ``look`` says became of the act."""
    found = store.look(case.key)
    assert found is None or found.operation == operation
    return (found is not None) == case.makes


def fails(
    case: Case, store: UnderStorage, proxy: StoreProxy, actor: UnderStorage | None = None, **fault: object
) -> tuple[MonofsError, bool]:
    """The error of an act of ``actor`` (the store itself by default) under a fault, and whether it was done all the same."""
    operation, struck = new(), threading.Event()
    act = case.prepare(store, case.key, operation)
    rule = proxy.add(replace(case.fault, **fault, call=struck.set, times=1, used=0))  # type: ignore[arg-type]
    while not rule.used:  # what is asked before the act may fail for want of patience
        with pytest.raises(MonofsError) as caught:
            act(actor or store)
    assert rule.status or struck.wait(30)
    proxy.clear()
    return caught.value, is_done(case, store, operation)


@each
@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(500, "InternalError", UfsFailed), (503, "SlowDown", UfsThrottled), (504, "GatewayTimeout", UfsFailed)],
)
@pytest.mark.parametrize("lands", [False, True])
def test_a_failing_server_may_have_done_it_and_look_tells(
    broken: tuple[StoreProxy, S3Root], case: Case, status: int, code: str, error: type[MonofsError], lands: bool
) -> None:
    proxy, root = broken
    told, done = fails(case, root.store, proxy, status=status, code=code, lands=lands)
    assert type(told) is error
    assert may_be_done(told)
    assert done == lands


@each
@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", UfsDenied),
        (400, "InvalidArgument", UfsFailed),
        (403, "QuotaExceeded", UfsFull),
        (507, "InsufficientStorage", UfsFull),
    ],
)
def test_a_refusal_says_that_it_was_not_done(
    broken: tuple[StoreProxy, S3Root], case: Case, status: int, code: str, error: type[MonofsError]
) -> None:
    proxy, root = broken
    told, done = fails(case, root.store, proxy, status=status, code=code)
    assert type(told) is error
    assert not may_be_done(told)
    assert not done


@each
@pytest.mark.parametrize("cut", ["close", "reset"])
@pytest.mark.parametrize("early", [True, False])
def test_a_connection_that_breaks_tells_nothing_and_look_does(
    broken: tuple[StoreProxy, S3Root], case: Case, cut: str, early: bool
) -> None:
    proxy, root = broken
    told, done = fails(case, root.store, proxy, cut=cut, early=early, after_bytes=-1)
    assert type(told) is UfsUnreachable
    assert may_be_done(told)
    assert done == (not early)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("complete", "copy", "delete_many")], ids=lambda c: c.name
)
@pytest.mark.parametrize("cut", ["close", "reset"])
def test_an_answer_cut_short_tells_nothing_and_look_does(
    broken: tuple[StoreProxy, S3Root], case: Case, cut: str
) -> None:
    proxy, root = broken
    told, done = fails(case, root.store, proxy, cut=cut, after_bytes=20)
    assert isinstance(told, UfsBadBody)
    assert may_be_done(told)
    assert done or case.name == "delete_many"  # radosgw begins that answer before it deletes


@each
@pytest.mark.parametrize("early", [True, False])
def test_silence_tells_nothing_and_look_does(broken: tuple[StoreProxy, S3Root], case: Case, early: bool) -> None:
    proxy, root = broken
    store = impatient(proxy, root)
    told, done = fails(case, root.store, proxy, store, cut="hang", early=early, after_bytes=-1)
    assert type(told) is UfsUnreachable
    assert may_be_done(told)
    assert done == (not early)
    store.close()


@each
def test_a_request_delivered_twice_is_done_once_and_told_as_done(broken: tuple[StoreProxy, S3Root], case: Case) -> None:
    proxy, root = broken
    operation = new()
    act = case.prepare(root.store, case.key, operation)
    rule = proxy.add(replace(case.fault, twice=True))
    result = act(root.store)
    assert rule.used
    proxy.clear()
    assert is_done(case, root.store, operation)
    if case.makes:
        assert file_of(root.store, case.key).fingerprint == result.fingerprint  # type: ignore[attr-defined]
    else:
        assert not result


@each
def test_an_act_that_landed_unheard_and_is_asked_for_again_is_told_as_done(
    broken: tuple[StoreProxy, S3Root], case: Case
) -> None:
    proxy, root = broken
    operation = new()
    act = case.prepare(root.store, case.key, operation)
    proxy.add(replace(case.fault, cut="close", after_bytes=-1, times=1))
    with pytest.raises(UfsUnreachable):
        act(root.store)
    act(root.store)
    assert is_done(case, root.store, operation)


@each
def test_a_store_that_is_down_was_not_asked(broken: tuple[StoreProxy, S3Root], case: Case) -> None:
    proxy, root = broken
    operation = new()
    act = case.prepare(root.store, case.key, operation)
    proxy.stop()
    try:
        with pytest.raises(UfsUnreachable) as caught:
            act(root.store)
    finally:
        proxy.start()
    assert not may_be_done(caught.value)
    assert not is_done(case, root.store, operation)


@pytest.mark.parametrize("key", [PLAIN, ODD])
def test_a_put_that_lands_after_its_client_gave_up_is_known_by_its_operation(
    broken: tuple[StoreProxy, S3Root], key: bytes
) -> None:
    proxy, root = broken
    store, landed = impatient(proxy, root), threading.Event()
    rule = proxy.add(Fault(kind="put", delay_s=60, times=1, call=landed.set, after_bytes=-1))
    while not rule.used:
        with pytest.raises(UfsUnreachable) as caught:
            store.put(key, views(b"late"), "late-1", ABSENT)
    assert may_be_done(caught.value)
    assert root.store.look(key) is None
    proxy.clear()
    assert landed.wait(30)
    found = root.store.look(key)
    assert found is not None
    assert found.operation == "late-1"
    with pytest.raises(UfsChanged):
        root.store.put(key, views(b"next"), new(), ABSENT)
    store.close()


def test_parts_that_failed_are_sent_again_and_the_file_is_whole(broken: tuple[StoreProxy, S3Root]) -> None:
    proxy, root = broken
    store, data, size = root.store, os.urandom(12 * MIB), 5 * MIB
    upload = store.begin_upload(b"big", operation := new())
    rules = [
        Fault(kind="put", query="partNumber=1", status=503, times=1),
        Fault(kind="put", query="partNumber=2", cut="close", after_bytes=-1, times=1),
        Fault(kind="put", query="partNumber=3", twice=True, times=1),
    ]
    for rule in rules:
        proxy.add(rule)
    parts = []
    for number, at in enumerate(range(0, len(data), size), 1):
        while len(parts) < number:
            with contextlib.suppress(UfsThrottled, UfsUnreachable):
                parts.append(store.put_part(b"big", upload, number, at, views(data[at : at + size])))
    assert [rule.used for rule in rules] == [1, 1, 1]
    store.complete_upload(b"big", upload, parts, len(data), operation, ABSENT)
    assert read_all(store, b"big", 0, len(data), file_of(store, b"big").fingerprint) == data
    assert not root.leftovers()


def test_a_file_replaced_right_after_it_was_completed_is_told_as_made_or_as_unclear(
    broken: tuple[StoreProxy, S3Root],
) -> None:
    proxy, root = broken
    store, operation = root.store, new()
    upload = store.begin_upload(b"k", operation)
    parts = [store.put_part(b"k", upload, 1, 0, views(b"ours!"))]
    proxy.add(Fault(kind="post", query="uploadId=", call=lambda: root.put(b"k", b"theirs"), times=1))
    told = b""
    try:
        told = store.complete_upload(b"k", upload, parts, 5, operation, ABSENT).fingerprint.encode()
    except UfsBadBody:
        pass  # radosgw does not tell the etag of what it completed, and now shows another
    found = store.look(b"k")
    assert found is not None
    assert (found.operation, found.size) == ("", 6)
    assert found.fingerprint.encode() != told


def test_what_a_server_copied_of_another_version_is_taken_back(broken: tuple[StoreProxy, S3Root]) -> None:
    proxy, root = broken
    store = root.store
    source = store.put(b"source", views(b"asked for"), new(), ABSENT)
    proxy.add(
        Fault(kind="head", key=root.full(b"source"), call=lambda: root.put(b"source", b"another"), times=1)
    )  # after it was looked at, and before it is copied
    with pytest.raises(UfsChanged) as caught:
        store.copy(b"source", source.fingerprint, b"target", new(), ABSENT)
    assert caught.value.detail["source"] == 1
    assert store.look(b"target") is None


def test_a_large_copy_is_made_of_parts_and_keeps_what_the_source_says(
    broken: tuple[StoreProxy, S3Root], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, root = broken
    monkeypatch.setattr(s3_uploads, "COPY_BYTES_MAX", 6 * MIB)
    monkeypatch.setattr(s3_uploads, "COPY_PART_BYTES", 5 * MIB)
    data = os.urandom(11 * MIB)
    said = {"content-type": "text/x-own", "cache-control": "no-cache", "x-amz-meta-mine": "yes"}
    root.put(b"source", data, headers={**said, "x-amz-tagging": "t=1"})
    entry = file_of(root.store, b"source")
    begun: list[str] = []
    operation = new()
    made = root.store.copy(b"source", entry.fingerprint, b"target", operation, ABSENT, begun=begun.append)
    assert len(begun) == 1
    assert sum("partNumber=" in seen.query for seen in proxy.seen("put", root.full(b"target"))) == 3
    assert read_all(root.store, b"target", 0, len(data), made.fingerprint) == data
    headers = root.headers(b"target")
    assert {name: headers[name] for name in said} == said
    assert headers["x-amz-meta-monofs-operation"] == operation
    assert root.store.headers(b"target")[1]["x-amz-tagging"] == "t=1"
    assert not root.leftovers()


def test_a_large_copy_that_fails_leaves_no_upload(
    broken: tuple[StoreProxy, S3Root], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, root = broken
    monkeypatch.setattr(s3_uploads, "COPY_BYTES_MAX", 6 * MIB)
    monkeypatch.setattr(s3_uploads, "COPY_PART_BYTES", 5 * MIB)
    root.put(b"source", bytes(11 * MIB))
    entry = file_of(root.store, b"source")
    for rule in (
        Fault(kind="put", query="partNumber=2", status=500, code="InternalError"),
        Fault(kind="post", query="uploadId=", status=403, code="AccessDenied"),
    ):
        proxy.add(rule)
        with pytest.raises((UfsFailed, UfsDenied)):
            root.store.copy(b"source", entry.fingerprint, b"target", new(), ABSENT)
        proxy.clear()
        assert not root.leftovers()
        assert root.store.look(b"target") is None


def test_a_copy_keeps_the_headers_and_metadata_of_its_source(broken: tuple[StoreProxy, S3Root]) -> None:
    _, root = broken
    said = {"content-type": "text/x-own", "content-disposition": "attachment", "x-amz-meta-mine": "yes"}
    root.put(b"source", b"data", headers=said)
    root.store.copy(b"source", file_of(root.store, b"source").fingerprint, b"target", new(), ABSENT)
    headers = root.headers(b"target")
    assert {name: headers[name] for name in said} == said


def test_which_keys_could_not_be_deleted_is_told_one_by_one(broken: tuple[StoreProxy, S3Root]) -> None:
    proxy, root = broken
    keys = [b"a", b"with\x01control", b"c"]
    for key in keys:
        root.put(key, b"x")
    proxy.add(Fault(kind="delete", status=500, code="InternalError"))
    failed = root.store.delete_many(keys)
    proxy.clear()
    assert {key: type(error) for key, error in failed.items()} == {b"with\x01control": UfsFailed}
    assert [entry.name for entry in root.store.scan(b"").entries] == [b"warm", b"with\x01control"]


def test_a_second_condition_needs_no_question_before_it(broken: tuple[StoreProxy, S3Root]) -> None:
    proxy, root = broken
    made = root.store.put(b"k", views(b"one"), new(), ABSENT)
    for text in (b"two", b"three"):
        made = root.store.put(b"k", views(text), new(), Condition(made.fingerprint))
    proxy.forget()
    root.store.put(b"k", views(b"four"), new(), Condition(made.fingerprint))
    root.store.put(b"other", views(b"five"), new(), ABSENT)
    assert [one.kind for one in proxy.seen()] == ["put", "put"]
