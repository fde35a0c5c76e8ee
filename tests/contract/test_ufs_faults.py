"""How the S3 store tells what went wrong: credentials, addresses, broken answers. Every failure is seen once: nothing retries inside."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
from ufs_worlds import S3Root, S3World, file_of, read_all

from monofs.model.errors import (
    MonofsError,
    UfsBadBody,
    UfsBucketNotFound,
    UfsChanged,
    UfsDenied,
    UfsFailed,
    UfsOption,
    UfsThrottled,
    UfsUnreachable,
)
from monofs.testing.ceph import Ceph
from monofs.testing.ports import free_port
from monofs.testing.storeproxy import Fault, StoreProxy
from monofs.ufs.registry import open_ufs

FAST, OWN = b"plain", b"odd//key"
SECRET = "a-very-secret-value"


@pytest.fixture
def broken(proxied: tuple[StoreProxy, S3World]) -> Iterator[tuple[StoreProxy, S3Root]]:
    """A proxy without rules, and a root with two objects read in the two ways there are."""
    proxy, world = proxied
    root = world.root()
    for key in (FAST, OWN):
        root.put(key, b"0123456789")
    proxy.forget()
    yield proxy, root
    proxy.clear()


ANSWERS = [
    (Fault(status=503), UfsThrottled, "slow down"),
    (Fault(status=429, code="TooManyRequests"), UfsThrottled, "slow down"),
    (Fault(status=500, code="InternalError"), UfsFailed, "500 InternalError"),
    (Fault(status=403, code="AccessDenied"), UfsDenied, "refused access"),
    (Fault(status=403, code="RequestTimeTooSkewed"), UfsDenied, "clock"),
    (Fault(status=400, code="ExpiredToken"), UfsDenied, "session token"),
    (Fault(status=301, code="PermanentRedirect", headers={"x-amz-bucket-region": "eu-north-1"}), UfsOption, "region"),
    (Fault(status=404, code="NoSuchBucket"), UfsBucketNotFound, "does not exist"),
    (Fault(cut="close", after_bytes=-1), UfsUnreachable, "connection"),
    (Fault(cut="reset", after_bytes=-1), UfsUnreachable, "reset by peer"),
    (Fault(cut="close", after_bytes=4), UfsBadBody, "cut short"),
    (Fault(cut="reset", after_bytes=4), UfsBadBody, "cut short"),
]


@pytest.mark.parametrize("way", ["fast", "own", "list"])
@pytest.mark.parametrize(
    ("fault", "error", "words"), ANSWERS, ids=[f"{f.status or f.cut}{f.code}" for f, *_ in ANSWERS]
)
def test_a_refusal_is_one_typed_error_and_one_request(
    broken: tuple[StoreProxy, S3Root], way: str, fault: Fault, error: type[MonofsError], words: str
) -> None:
    proxy, root = broken
    calls: dict[str, Callable[[], object]] = {"list": lambda: root.store.list(b"")}
    for name, key in (("fast", FAST), ("own", OWN)):
        fingerprint = file_of(root.store, key).fingerprint
        calls[name] = lambda key=key, fingerprint=fingerprint: read_all(root.store, key, 0, 10, fingerprint)
    proxy.forget()
    proxy.add(
        Fault(status=fault.status, code=fault.code, headers=fault.headers, cut=fault.cut, after_bytes=fault.after_bytes)
    )
    with pytest.raises(error, match=words) as caught:
        calls[way]()
    assert proxy.count() == 1
    assert caught.value.retry == (error in (UfsThrottled, UfsFailed, UfsUnreachable, UfsBadBody))
    proxy.clear()
    calls[way]()


@pytest.mark.parametrize("key", [FAST, OWN])
def test_an_answer_of_another_version_or_range_gives_no_byte(broken: tuple[StoreProxy, S3Root], key: bytes) -> None:
    proxy, root = broken
    fingerprint = file_of(root.store, key).fingerprint
    for headers, error in (
        ({"ETag": '"00000000000000000000000000000000"'}, UfsChanged),
        ({"ETag": ""}, UfsChanged),
        ({"Content-Range": "bytes 1-9/10"}, UfsBadBody),
        ({"Content-Range": ""}, UfsBadBody),
    ):
        proxy.clear()
        proxy.add(Fault(kind="get", headers=headers))
        with pytest.raises(error):
            next(root.store.read(key, 0, 10, fingerprint))


@pytest.mark.parametrize("key", [FAST, OWN])
@pytest.mark.parametrize("cut", ["close", "reset"])
def test_what_came_before_a_cut_is_of_the_version_asked_for(
    broken: tuple[StoreProxy, S3Root], key: bytes, cut: str
) -> None:
    proxy, root = broken
    data = os.urandom(6 << 20)
    root.put(key, data)
    fingerprint = file_of(root.store, key).fingerprint
    proxy.add(Fault(kind="get", cut=cut, after_bytes=5 << 20))
    got = bytearray()
    with pytest.raises(UfsBadBody):
        for view in root.store.read(key, 0, len(data), fingerprint):
            got += view
    assert len(got) < len(data)
    assert got == data[: len(got)]


@pytest.mark.parametrize("key", [FAST, OWN])
def test_an_object_replaced_while_its_body_flows_is_never_a_mix(broken: tuple[StoreProxy, S3Root], key: bytes) -> None:
    proxy, root = broken
    old, new = b"o" * (6 << 20), b"n" * (6 << 20)
    root.put(key, old)
    fingerprint = file_of(root.store, key).fingerprint
    replace = Fault(kind="get", times=1, after_bytes=1 << 20, call=lambda: root.put(key, new))
    proxy.add(replace)
    got = bytearray()
    try:
        for view in root.store.read(key, 0, len(old), fingerprint):
            got += view
        assert got == old
    except (UfsBadBody, UfsChanged):
        assert got == old[: len(got)]
    assert replace.used == 1
    with pytest.raises(UfsChanged):
        read_all(root.store, key, 0, 10, fingerprint)


@pytest.mark.parametrize("after_bytes", [-1, 4])
def test_silence_ends_after_the_time_allowed(broken: tuple[StoreProxy, S3Root], after_bytes: int) -> None:
    proxy, root = broken
    options = {"endpoint": proxy.endpoint, "access_key": "AKIAMAIN", "secret_key": "secretmain"}
    store = open_ufs(root.uri, options, timeout_s=0.3)
    fingerprints = {key: file_of(store, key).fingerprint for key in (FAST, OWN)}
    proxy.add(Fault(cut="hang", after_bytes=after_bytes))
    for key, fingerprint in fingerprints.items():
        with pytest.raises(UfsUnreachable, match="in time"):
            read_all(store, key, 0, 10, fingerprint)
    with pytest.raises(UfsUnreachable, match="in time"):
        store.list(b"")
    store.close()


def test_a_store_that_stopped_is_unreachable_and_works_again_when_back(broken: tuple[StoreProxy, S3Root]) -> None:
    proxy, root = broken
    fingerprint = file_of(root.store, FAST).fingerprint
    proxy.stop()
    with pytest.raises(UfsUnreachable, match=proxy.endpoint):
        root.store.list(b"")
    with pytest.raises(UfsUnreachable, match=proxy.endpoint):
        read_all(root.store, FAST, 0, 10, fingerprint)
    proxy.start()
    assert read_all(root.store, FAST, 0, 10, fingerprint) == b"0123456789"
    assert len(root.store.list(b"").entries) == 2


def test_a_reader_that_walks_away_ends_the_request(broken: tuple[StoreProxy, S3Root]) -> None:
    proxy, root = broken
    told: list[tuple[str, str]] = []
    options = {"endpoint": proxy.endpoint, "access_key": "AKIAMAIN", "secret_key": "secretmain"}
    store = open_ufs(root.uri, options, observe=lambda kind, outcome, *_: told.append((kind, outcome)))
    for key in (FAST, OWN):
        root.put(key, bytes(6 << 20))
        reader = store.read(key, 0, 6 << 20, file_of(store, key).fingerprint)
        next(reader)
        reader.close()  # type: ignore[attr-defined]
    assert [one for one in told if one[0] == "get"] == [("get", "abandoned")] * 2
    store.close()


def test_requests_are_told_to_the_observer(broken: tuple[StoreProxy, S3Root]) -> None:
    proxy, root = broken
    told: list[tuple[str, str, int]] = []
    lock = threading.Lock()

    def observe(kind: str, outcome: str, seconds: float, count: int) -> None:
        assert seconds > 0
        with lock:
            told.append((kind, outcome, count))

    options = {"endpoint": proxy.endpoint, "access_key": "AKIAMAIN", "secret_key": "secretmain"}
    store = open_ufs(root.uri, options, observe=observe)
    fingerprint = file_of(store, FAST).fingerprint
    store.list(b"")
    read_all(store, FAST, 2, 5, fingerprint)
    proxy.add(Fault(status=503, times=1))
    with pytest.raises(UfsThrottled):
        read_all(store, FAST, 2, 5, fingerprint)
    assert told == [("head", "ok", 0), ("list", "ok", 0), ("get", "ok", 5), ("get", "UfsThrottled", 0)]
    store.close()


@pytest.mark.ceph
class TestCredentials:
    """Against a server that verifies signatures."""

    @pytest.fixture
    def given(self, ceph: Ceph) -> dict[str, str]:
        world = S3World(ceph.endpoint, ceph.access_key, ceph.secret_key, lambda _: False)
        root = world.root()
        root.put(FAST, b"data")
        root.put(OWN, b"data")
        self.uri, self.root = root.uri, root
        world.close()
        return {"endpoint": ceph.endpoint, "access_key": ceph.access_key, "secret_key": ceph.secret_key}

    def refused(self, options: dict[str, str], error: type[MonofsError], words: str, uri: str = "") -> None:
        """The check and both ways to read all say the same."""
        store = open_ufs(uri or self.uri, options, timeout_s=10)
        for call in (
            store.check,
            lambda: read_all(store, FAST, 0, 1, "e:0"),
            lambda: read_all(store, OWN, 0, 1, "e:0"),
        ):
            with pytest.raises(error, match=words) as caught:
                call()
            assert SECRET not in str(caught.value)
            assert SECRET not in repr(caught.value.detail)
        store.close()

    def test_a_wrong_secret_names_the_secret_key_option(self, given: dict[str, str]) -> None:
        self.refused({**given, "secret_key": SECRET}, UfsDenied, "option secret_key")

    def test_an_unknown_access_key_names_the_access_key_option(self, given: dict[str, str]) -> None:
        self.refused(
            {**given, "access_key": "AKIANOBODY", "secret_key": SECRET}, UfsDenied, "'AKIANOBODY'.*option access_key"
        )

    def test_another_users_bucket_is_denied(self, given: dict[str, str], ceph: Ceph) -> None:
        other = {"access_key": ceph.other_access_key, "secret_key": ceph.other_secret_key}
        self.refused({**given, **other}, UfsDenied, "lack the right")

    def test_an_unsigned_request_is_denied(self, given: dict[str, str]) -> None:
        self.refused({"endpoint": given["endpoint"], "anonymous": "true"}, UfsDenied, "lack the right")

    def test_a_missing_bucket_is_named(self, given: dict[str, str]) -> None:
        self.refused(given, UfsBucketNotFound, "'no-such-bucket'", "s3://no-such-bucket/x")

    def test_a_closed_port_is_unreachable(self, given: dict[str, str]) -> None:
        self.refused({**given, "endpoint": f"http://127.0.0.1:{free_port()}"}, UfsUnreachable, "Connection refused")

    def test_an_unknown_host_is_unreachable(self, given: dict[str, str]) -> None:
        self.refused({**given, "endpoint": "http://no-such-host.invalid"}, UfsUnreachable, "no-such-host.invalid")

    def test_the_credential_chain_is_used_when_no_keys_are_given(
        self, given: dict[str, str], ceph: Ceph, tmp_path: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = f"{tmp_path}/credentials"
        with open(file, "w", encoding="utf-8") as out:
            out.write(f"[lake]\naws_access_key_id = {ceph.access_key}\naws_secret_access_key = {ceph.secret_key}\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", file)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        self.reads({"endpoint": ceph.endpoint, "profile": "lake"})
        with pytest.raises(UfsDenied, match="no S3 credentials found"):
            open_ufs(self.uri, {"endpoint": ceph.endpoint}).check()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ceph.secret_key)
        self.reads({"endpoint": ceph.endpoint})

    def test_given_keys_are_not_mixed_with_the_environment(
        self, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {
            "AWS_SESSION_TOKEN": SECRET,
            "AWS_ACCESS_KEY_ID": "AKIAOTHER",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
            "AWS_REGION": "eu-west-9",
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        }.items():
            monkeypatch.setenv(name, value)
        self.reads(given)

    def reads(self, options: dict[str, str]) -> None:
        store = open_ufs(self.uri, options)
        store.check()
        for key in (FAST, OWN):
            assert read_all(store, key, 0, 10, file_of(store, key).fingerprint) == b"data"
        store.close()
