"""What the S3 store makes of servers that honour conditions differently or not at all, and of answers that tell too little or lie."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Callable
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import unquote, urlsplit

import pytest
from s3_stub import Answer, Request, Stub, content, listing

from monofs.model.errors import (
    MonofsError,
    UfsBadBody,
    UfsChanged,
    UfsDenied,
    UfsFailed,
    UfsFull,
    UfsNotFound,
    UfsThrottled,
)
from monofs.ufs.base import ANYTHING, PART_SIZES, PARTS_MAX, Condition, UnderStorage, may_be_done, part_size
from monofs.ufs.registry import open_ufs
from monofs.ufs.s3_documents import delete_document, is_plain, read_failed

ABSENT = Condition(absent=True)


def opened(stub: Stub, **options: str) -> UnderStorage:
    return open_ufs(
        "s3://bucket", {"endpoint": stub.endpoint, "access_key": "k", "secret_key": "s", **options}, timeout_s=5
    )


def views(data: bytes) -> list[memoryview]:
    return [memoryview(data)]


def refusal(status: int, code: str) -> Answer:
    return status, {}, f"<Error><Code>{code}</Code></Error>".encode()


class Server:
    """Just enough of S3 behind a stub; ``conditions`` is what it makes of those on PUT and completion: honoured, ignored, bare
    (honoured, with etags written without quotes) or unknown (501)."""

    def __init__(self, stub: Stub, conditions: str = "honoured", *, etags: bool = True, ahead_s: int = 0) -> None:
        self.stub, self.conditions, self.etags, self.ahead_s = stub, conditions, etags, ahead_s
        self.objects: dict[str, tuple[bytes, dict[str, str], str]] = {}
        self.parts: dict[str, bytes] = {}
        self.begun: dict[str, str] = {}
        stub.act = self.answer

    def date(self) -> str:
        return format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.ahead_s), usegmt=True)

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.stub.requests)

    def etag(self, key: str) -> str:
        return hashlib.md5(self.objects[key][0]).hexdigest()

    def answer(self, request: Request) -> Answer:
        url = urlsplit(request.path)
        key = unquote(url.path.removeprefix("/bucket").removeprefix("/"))
        status, headers, body = self.act(request, key, url.query)
        return status, {"Date": self.date(), **headers}, body

    def act(self, request: Request, key: str, query: str) -> Answer:
        if request.method == "GET":
            prefix = unquote(dict(pair.split("=", 1) for pair in query.split("&"))["prefix"])
            shown = [self.shown(each) for each in sorted(self.objects) if each.startswith(prefix)]
            return 200, {}, listing(*shown)
        if request.method == "HEAD":
            return self.head(key)
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return 204, {}, b""
        meta = {name: value for name, value in request.headers.items() if name.startswith("x-amz-meta-")}
        if query.startswith("uploads"):
            self.begun = meta
            return (
                200,
                {},
                b"<InitiateMultipartUploadResult><UploadId>up&amp;1</UploadId></InitiateMultipartUploadResult>",
            )
        if "partNumber" in query:
            self.parts[query] = request.body
            return 200, {"ETag": '"part"'}, b""
        refused = self.refused(request, key)
        if refused is not None:
            return refused
        if "uploadId" in query:
            self.objects[key] = b"".join(self.parts.values()), self.begun, self.date()
        else:
            self.objects[key] = request.body, meta, self.date()
        return 200, {"ETag": f'"{self.etag(key)}"'} if self.etags else {}, b""

    def refused(self, request: Request, key: str) -> Answer | None:
        wanted, none = request.headers.get("if-match"), request.headers.get("if-none-match")
        if self.conditions == "ignored" or (wanted is None and none is None):
            return None
        if self.conditions == "unknown":
            return refusal(501, "NotImplemented")
        if none is not None:
            return refusal(412, "PreconditionFailed") if key in self.objects else None
        if key not in self.objects:
            return refusal(404, "NoSuchKey")
        right = self.etag(key) if self.conditions == "bare" else f'"{self.etag(key)}"'
        return None if wanted == right else refusal(412, "PreconditionFailed")

    def shown(self, key: str) -> str:
        body, _, date = self.objects[key]
        at = parsedate_to_datetime(date).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return content(key, len(body), f"&quot;{self.etag(key)}&quot;" if self.etags else "", at)

    def head(self, key: str) -> Answer:
        if key not in self.objects:
            return 404, {}, b""
        body, meta, date = self.objects[key]
        tag = {"ETag": f'"{self.etag(key)}"'} if self.etags else {}
        return 200, {"Content-Length": str(len(body)), "Last-Modified": date, **tag, **meta}, b""


every_kind = pytest.mark.parametrize("conditions", ["honoured", "bare", "ignored", "unknown"])


@every_kind
@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
def test_conditions_hold_at_every_kind_of_server(stub: Stub, conditions: str, key: bytes) -> None:
    server, store = Server(stub, conditions), opened(stub)
    made = store.put(key, views(b"0"), "op-0", ABSENT)
    for number in range(1, 4):
        with pytest.raises(UfsChanged):
            store.put(key, views(b"no"), "other", ABSENT)
        with pytest.raises(UfsChanged):
            store.put(key, views(b"no"), "other", Condition("e:" + "1" * 32))
        with pytest.raises(UfsChanged):
            store.put(b"missing", views(b"no"), "other", Condition(made.fingerprint))
        made = store.put(key, views(b"%d" % number), f"op-{number}", Condition(made.fingerprint))
        assert made.fingerprint == "e:" + server.etag(key.decode())
        assert server.objects[key.decode()][0] == b"%d" % number
    assert sorted(server.objects) == [key.decode()]


@every_kind
def test_a_server_that_honours_conditions_is_found_out_and_then_trusted(stub: Stub, conditions: str) -> None:
    server, store = Server(stub, conditions), opened(stub)
    for name in (b"a", b"b", b"c"):
        made = store.put(name, views(b"1"), "op-" + name.decode(), ABSENT)
        for text in (b"2", b"3", b"4"):
            made = store.put(name, views(text), f"op-{name.decode()}-{text.decode()}", Condition(made.fingerprint))
    stub.requests.clear()
    made = store.put(b"d", views(b"1"), "op-d", ABSENT)
    store.put(b"d", views(b"2"), "op-e", Condition(made.fingerprint))
    trusted = conditions in ("honoured", "bare")
    assert [request.method for request in stub.requests] == (["PUT"] * 2 if trusted else ["GET", "PUT"] * 2)
    assert server.objects["d"][0] == b"2"


@every_kind
def test_completions_ask_first_wherever_they_happen(stub: Stub, conditions: str) -> None:
    server, store = Server(stub, conditions), opened(stub)
    upload = store.begin_upload(b"k", "op-1")
    assert upload == "up&1"
    parts = [store.put_part(b"k", upload, 1, 0, views(b"bytes"))]
    made = store.complete_upload(b"k", upload, parts, 5, "op-1", ABSENT)
    assert made.size == 5
    with pytest.raises(UfsChanged):
        store.complete_upload(b"k", upload, parts, 5, "op-2", ABSENT)
    server.objects["k"] = b"theirs", {}, server.date()
    with pytest.raises(UfsChanged):
        store.complete_upload(b"k", upload, parts, 5, "op-3", Condition(made.fingerprint))
    assert server.objects["k"][0] == b"theirs"


def test_a_server_without_etags_is_asked_what_it_holds(stub: Stub) -> None:
    server, store = Server(stub, etags=False), opened(stub)
    made = store.put(b"k", views(b"one"), "op-1", ABSENT)
    assert made.fingerprint.startswith("t:3:")
    listed = store.list(b"").entries[0]
    assert (listed.fingerprint, listed.size) == (made.fingerprint, 3)
    assert store.put(b"k", views(b"four"), "op-2", Condition(made.fingerprint)).size == 4
    with pytest.raises(UfsChanged):
        store.put(b"k", views(b"x"), "op-3", Condition(made.fingerprint))
    assert server.objects["k"][0] == b"four"


@pytest.mark.parametrize("ahead_s", [0, 3600, -90])
def test_the_time_of_what_was_made_is_by_the_clock_of_the_store(stub: Stub, ahead_s: int) -> None:
    Server(stub, ahead_s=ahead_s)
    store = opened(stub)
    for number, key in enumerate((b"plain", b"odd//key")):
        made = store.put(key, views(b"x"), f"op-{number}", ABSENT)
        listed = store.status(key)[0]
        assert listed is not None
        assert abs(made.mtime_ns - listed.mtime_ns) <= 10**9
        assert abs(made.mtime_ns / 1e9 - time.time() - ahead_s) < 3


def test_an_error_inside_an_answer_of_status_200_is_an_error(stub: Stub) -> None:
    server, store = Server(stub), opened(stub)
    store.put(b"source", views(b"x"), "op-0", ABSENT)
    fingerprint = "e:" + server.etag("source")
    inside = (
        b'<?xml version="1.0"?>\n\n<Error><Code>InternalError</Code><Message>We encountered an error</Message></Error>'
    )
    stub.act = lambda request: (200, {}, inside) if request.method in ("PUT", "POST") else server.answer(request)
    for act in (
        lambda: store.complete_upload(b"k", "up", ["1:part"], 5, "op-1", ABSENT),
        lambda: store.copy(b"source", fingerprint, b"target", "op-2", ABSENT),
        lambda: store.delete_many([b"k"]),
    ):
        with pytest.raises(UfsFailed, match="We encountered an error") as caught:
            act()
        assert may_be_done(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"<html>login</html>", b"<DeleteResult><Error><Code>X</Code></Error></DeleteResult>"]
)
def test_an_answer_that_makes_no_sense_is_a_bad_body(stub: Stub, body: bytes) -> None:
    stub.act = lambda request: (200, {}, body)
    store = opened(stub)
    for act in (
        lambda: store.delete_many([b"k"]),
        lambda: store.begin_upload(b"k", "op"),
        lambda: store.put_part(b"k", "up", 1, 0, views(b"x")),
    ):
        with pytest.raises(UfsBadBody) as caught:
            act()
        assert may_be_done(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "error", "unclear"),
    [
        (409, "ConditionalRequestConflict", UfsChanged, False),
        (409, "OperationAborted", UfsFailed, False),
        (403, "QuotaExceeded", UfsFull, False),
        (507, "XMinioStorageFull", UfsFull, False),
        (400, "EntityTooLarge", UfsFailed, False),
        (403, "AccessDenied", UfsDenied, False),
        (404, "NoSuchUpload", UfsNotFound, False),
        (502, "BadGateway", UfsFailed, True),
    ],
)
@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
def test_what_a_refusal_means_for_an_act(
    stub: Stub, status: int, code: str, error: type[MonofsError], unclear: bool, key: bytes
) -> None:
    server, store = Server(stub), opened(stub)
    store.put(b"warm", views(b"x"), "op-0", ABSENT)
    stub.act = lambda request: refusal(status, code) if request.method == "PUT" else server.answer(request)
    with pytest.raises(error) as caught:
        store.put(key, views(b"x"), "op-1", ABSENT)
    assert type(caught.value) is error
    assert may_be_done(caught.value) == unclear


def test_what_was_done_and_cannot_be_looked_at_is_not_told_as_undone(stub: Stub) -> None:
    server, store = Server(stub), opened(stub)
    store.put(b"source", views(b"x"), "op-0", ABSENT)
    fingerprint = "e:" + server.etag("source")
    heads: list[Request] = []

    def blind(request: Request) -> Answer:
        if request.method == "HEAD":
            heads.append(request)
        return (
            refusal(403, "AccessDenied") if request.method == "HEAD" and len(heads) > seen else server.answer(request)
        )

    upload = store.begin_upload(b"k", "op-1")
    parts = [store.put_part(b"k", upload, 1, 0, views(b"bytes"))]
    server.etags = False  # what is made names no etag from here on
    stub.act, seen = blind, 0
    with pytest.raises(UfsFailed, match="cannot be looked at") as completed:
        store.complete_upload(b"k", upload, parts, 5, "op-1", ABSENT)
    stub.act, server.etags = server.answer, True
    server.objects["source"] = b"x", {}, server.date()
    stub.act, seen = blind, len(heads) + 1
    with pytest.raises(UfsFailed, match="cannot be looked at") as copied:
        store.copy(b"source", fingerprint, b"target", "op-2", ANYTHING)  # the stub copies no bytes, so the etag differs
    seen = len(heads)
    with pytest.raises(UfsFailed, match="cannot be looked at") as put:
        store.put(b"k", views(b"again"), "op-1", ABSENT)
    assert {"k", "source", "target"} == set(server.objects)
    assert all(may_be_done(caught.value) for caught in (completed, copied, put))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_question_before_the_act_that_fails_says_that_it_was_not_done(stub: Stub, method: str) -> None:
    server, store = Server(stub), opened(stub)
    made = store.put(b"source", views(b"x"), "op-0", ANYTHING)
    stub.act = lambda request: refusal(503, "SlowDown") if request.method == method else server.answer(request)
    acts: dict[str, list[Callable[[], object]]] = {
        "GET": [
            lambda: store.put(b"k", views(b"x"), "op-1", ABSENT),
            lambda: store.complete_upload(b"k", "up", ["1:part"], 1, "op-2", ABSENT),
        ],
        "HEAD": [lambda: store.copy(b"source", made.fingerprint, b"k", "op-3", ANYTHING)],
    }
    for act in acts[method]:
        with pytest.raises(UfsThrottled) as caught:
            act()
        assert not may_be_done(caught.value)
    assert set(server.objects) == {"source"}


def test_a_conflict_with_another_act_says_nothing_about_what_the_server_honours(stub: Stub) -> None:
    server, store = Server(stub), opened(stub)
    made = store.put(b"k", views(b"0"), "op-0", ABSENT)
    made = store.put(b"k", views(b"1"), "op-1", Condition(made.fingerprint))
    conflict = refusal(409, "ConditionalRequestConflict")
    stub.act = lambda request: conflict if request.method == "PUT" else server.answer(request)
    for number in range(3):
        with pytest.raises(UfsChanged):
            store.put(b"k", views(b"2"), f"op-2-{number}", Condition(made.fingerprint))
    stub.act = server.answer
    stub.requests.clear()
    store.put(b"k", views(b"3"), "op-3", Condition(made.fingerprint))
    assert [(request.method, request.headers["if-match"]) for request in stub.requests] == [
        ("PUT", f'"{made.fingerprint[2:]}"')
    ]


def test_which_keys_were_not_deleted_is_read_from_the_answer(stub: Stub) -> None:
    body = (
        b'<?xml version="1.0"?><DeleteResult xmlns="x"><Error><Key>a&amp;b</Key><Code>AccessDenied</Code><Message>no</Message></Error>'
        b"<Error><Key>gone</Key><Code>NoSuchKey</Code></Error><Error><Key>slow</Key><Code>SlowDown</Code></Error>"
        b"<Error><Key>odd</Key><Code>InternalError</Code></Error></DeleteResult>"
    )
    stub.act = lambda request: (200, {}, body)
    failed = opened(stub).delete_many([b"a&b", b"gone", b"slow", b"odd", b"fine"])
    assert {key: type(error).__name__ for key, error in failed.items()} == {
        b"a&b": "UfsDenied",
        b"slow": "UfsThrottled",
        b"odd": "UfsFailed",
    }
    sent = stub.requests[-1]
    assert sent.path == "/bucket?delete="
    assert "content-md5" in sent.headers
    assert b"<Key>a&amp;b</Key>" in sent.body


def test_keys_no_document_can_name_are_deleted_one_by_one(stub: Stub) -> None:
    stub.act = lambda request: (204, {}, b"") if request.method == "DELETE" else (200, {}, b"<DeleteResult/>")
    keys = [b"a", b"tab\t", b"\x01", b"bad\xff", "\ufffe".encode(), b"line\r\n", "größe".encode()]
    assert opened(stub).delete_many(keys) == {}
    assert [request.method for request in stub.requests] == ["POST", *["DELETE"] * 5]
    assert [key for key in keys if is_plain(key)] == [b"a", "größe".encode()]
    assert delete_document([b"<&>"]).count(b"<Key>&lt;&amp;&gt;</Key>") == 1
    assert read_failed(b"<DeleteResult></DeleteResult>", "x") == {}


def test_bodies_are_signed_in_the_clear_and_left_to_tls_otherwise(stub: Stub) -> None:
    Server(stub)
    opened(stub).put(b"odd//key", views(b"bytes"), "op-1", ANYTHING)
    assert stub.requests[-1].headers["x-amz-content-sha256"] == hashlib.sha256(b"bytes").hexdigest()
    assert stub.requests[-1].headers["content-length"] == "5"


def test_metadata_that_is_not_ascii_survives_a_copy(stub: Stub) -> None:
    server, store = Server(stub), opened(stub)
    store.put(b"source", views(b"x"), "op-0", ABSENT)
    server.objects["source"][1]["x-amz-meta-name"] = "größe".encode().decode("latin-1")
    fingerprint = "e:" + server.etag("source")
    stub.act = lambda request: server.answer(
        Request(request.method, request.path, request.headers, b"x" if request.method == "PUT" else request.body)
    )
    store.copy(b"source", fingerprint, b"target", "op-1", ANYTHING)
    assert server.objects["target"][1]["x-amz-meta-name"].encode("latin-1").decode() == "größe"
    assert server.objects["target"][1]["x-amz-meta-monofs-operation"] == "op-1"


class Renaming(Server):
    """Every version has another etag than its bytes, as where they are encrypted; copies carry bytes, and objects say they are ``size`` long."""

    size = 0

    def etag(self, key: str) -> str:
        body, meta, _ = self.objects[key]
        return hashlib.md5(body + meta.get("x-amz-meta-monofs-operation", "").encode()).hexdigest()

    def act(self, request: Request, key: str, query: str) -> Answer:
        source = unquote(request.headers.get("x-amz-copy-source", "")).removeprefix("/bucket/")
        if not source:
            return super().act(request, key, query)
        copied = Request(request.method, request.path, request.headers, self.objects[source][0])
        status, headers, body = super().act(copied, key, query)
        etag = headers.get("ETag", "").strip('"')
        return status, {}, body or f"<CopyResult><ETag>&quot;{etag}&quot;</ETag></CopyResult>".encode()

    def head(self, key: str) -> Answer:
        status, headers, body = super().head(key)
        return status, {**headers, "Content-Length": str(self.size)} if self.size and status == 200 else headers, body


@pytest.mark.parametrize("size", [4, 6 << 30])
def test_an_object_copied_onto_itself_stays_whatever_etag_the_copy_gets(stub: Stub, size: int) -> None:
    server, store = Renaming(stub), opened(stub)
    store.put(b"k", views(b"data"), "op-0", ABSENT)
    fingerprint, server.size = "e:" + server.etag("k"), size
    kept = {"content-type": "text/plain"}
    made = store.copy(b"k", fingerprint, b"k", "op-1", Condition(fingerprint=fingerprint), headers=kept)
    assert server.objects["k"][1]["x-amz-meta-monofs-operation"] == "op-1"
    assert (made.size, made.fingerprint) == (size, "e:" + server.etag("k"))
    assert made.fingerprint != fingerprint
    assert server.count("DELETE") == 0
    copied = [each.headers for each in stub.requests if "x-amz-copy-source" in each.headers]
    assert {each["x-amz-copy-source-if-match"].strip('"') for each in copied} == {fingerprint[2:]}
    assert sum("x-amz-copy-source-range" in each for each in copied) == (0 if size == 4 else 24)


def test_parts_grow_so_that_an_upload_of_unknown_size_stays_within_its_bounds() -> None:
    assert [part_size(number) >> 20 for number in (1, 1000, 1001, 5000, 5001, PARTS_MAX)] == [8, 8, 32, 32, 128, 128]
    assert sum(part_size(number) for number in range(1, PARTS_MAX + 1)) > 700 << 30
    assert PART_SIZES[-1][0] == PARTS_MAX
    with pytest.raises(UfsFull):
        part_size(PARTS_MAX + 1)
