"""Directories of buckets taken over from flat listings: what is shown is what listings with a delimiter show, for a request a thousand keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakes import Lake, ended, rename, start, tree
from master_house import House
from scribe import Scribe

from monofs.model.errors import UfsUnreachable
from monofs.model.inode import Flag, decode_inode
from monofs.model.paths import name_problem, parse_path
from monofs.rpc import api
from monofs.rpc.api import Method, ReadOptions
from monofs.testing.buckets import Bucket
from monofs.testing.storeproxy import StoreProxy

SMALL = {f"d{at:04}/f{number}": b"" for at in range(1000) for number in range(3)}
KEYS = sorted(SMALL)


@pytest.fixture(scope="module")
def small(make_bucket: Callable[[], Bucket]) -> Bucket:
    """3,000 objects in 1,000 directories, changed by no test."""
    bucket = make_bucket()
    bucket.put_all(SMALL)
    return bucket


@pytest.fixture
def proxy(ceph: object) -> Iterator[StoreProxy]:
    with StoreProxy(ceph.endpoint) as proxy:  # type: ignore[attr-defined]
        yield proxy


def mount(house: House, bucket: Bucket, proxy: StoreProxy, path: str = "/lake", **how: object) -> None:
    options = {**bucket.options, "endpoint": proxy.endpoint}
    house.ask(Method.MOUNT_ADD, api.MountAddRequest(path, bucket.uri, options, **how))  # type: ignore[arg-type]
    proxy.forget()


def keys(
    house: House, path: str = "/lake", after: bytes = b"", limit: int = 1000, interval_s: float | None = None
) -> list[str]:
    """Of all pages."""
    found: list[bytes] = []
    position: bytes | None = after
    while position is not None:
        request = api.ListKeysRequest(path, after=position, limit=limit, options=ReadOptions(interval_s))
        answer = house.ask(Method.LIST_KEYS, request)
        found += answer.keys
        position = answer.next
    assert found == sorted(set(found))
    return [key.decode() for key in found]


def walk(house: House, path: str) -> list[str]:
    """Files as a program meets them that lists directory by directory and tells so."""
    found: list[str] = []
    after: bytes | None = b""
    while after is not None:
        answer = house.ask(Method.LIST, api.ListRequest(path, after, deep=True))
        for name in map(bytes.decode, answer.names):
            found += walk(house, f"{path}/{name[:-1]}") if name.endswith("/") else [f"{path}/{name}"]
        after = answer.next
    return found


def test_the_keys_of_many_small_directories_cost_a_listing_a_thousand(
    house: House, small: Bucket, proxy: StoreProxy
) -> None:
    mount(house, small, proxy)
    assert keys(house) == KEYS
    assert proxy.count("list") <= 5
    assert proxy.count() == proxy.count("list")
    proxy.forget()
    assert keys(house) == KEYS
    assert proxy.count() == 0


@pytest.mark.parametrize("limit", [7, 300])
def test_pages_of_any_size_share_what_was_listed(house: House, small: Bucket, proxy: StoreProxy, limit: int) -> None:
    mount(house, small, proxy)
    assert keys(house, limit=limit) == KEYS
    assert proxy.count("list") <= 8


def test_a_listing_goes_on_anywhere_also_in_another_process(house: House, small: Bucket, proxy: StoreProxy) -> None:
    mount(house, small, proxy)
    first = house.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake", limit=400)).keys
    assert [key.decode() for key in first] == KEYS[:400]
    house.restart()
    proxy.forget()
    assert keys(house, after=first[-1]) == KEYS[400:]
    assert proxy.count("list") <= 8
    house.restart()
    proxy.forget()
    at = KEYS.index("d0700/f1")
    assert keys(house, after=b"d0700/f1") == KEYS[at + 1 :]
    assert proxy.count("list") <= 6


def test_a_client_that_walks_directory_by_directory_costs_no_more(
    house: House, small: Bucket, proxy: StoreProxy
) -> None:
    mount(house, small, proxy)
    assert walk(house, "/lake") == [f"/lake/{key}" for key in KEYS]
    assert proxy.count("list") <= 8


@pytest.mark.parametrize("kind", ["sync", "load"])
def test_a_job_takes_over_many_small_directories_and_knows_them_to_be_complete(
    house: House, small: Bucket, proxy: StoreProxy, kind: str
) -> None:
    mount(house, small, proxy, sync_interval_s=-1.0)
    arguments = {"metadata_only": "true"} if kind == "load" else {}
    job = ended(house, start(house, kind, "/lake", **arguments))
    assert (job.state, job.failed) == ("done", 0)
    assert proxy.count("list") <= 10
    proxy.forget()
    loaded = [
        house.namespace.lookup(parse_path(path)).inode for path in ("/lake", *(f"/lake/d{at:04}" for at in range(1000)))
    ]
    assert all(inode is not None and inode.flags & Flag.LOADED for inode in loaded)
    assert keys(house) == KEYS
    assert proxy.count() == 0


def test_a_directory_of_which_a_part_was_listed_is_not_complete(house: House, small: Bucket, proxy: StoreProxy) -> None:
    mount(house, small, proxy, sync_interval_s=-1.0)
    house.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake", limit=10))
    flags = [house.namespace.lookup(parse_path(path)).inode.flags & Flag.LOADED for path in ("/lake", "/lake/d0000")]  # type: ignore[union-attr]
    assert list(map(bool, flags)) == [False, True]
    assert house.list("/lake") == [f"d{at:04}/" for at in range(1000)]


def test_large_directories_cost_what_their_own_listings_do(house: House, bucket: Bucket, proxy: StoreProxy) -> None:
    objects = {f"{name}/f{at:04}": b"" for name in ("a", "c") for at in range(1500)} | {
        f"b/{at}": b"" for at in range(3)
    }
    bucket.put_all(objects)
    mount(house, bucket, proxy)
    assert keys(house) == sorted(objects)
    assert proxy.count("list") <= 10
    house.now_s += 61
    proxy.forget()
    assert ended(house, start(house, "sync", "/lake")).failed == 0
    assert proxy.count("list") <= 10


def test_what_changed_here_since_a_stretch_was_listed_is_shown_as_it_is_here(
    house: House, bucket: Bucket, proxy: StoreProxy
) -> None:
    bucket.put_all({f"d{at:02}/f{number}": b"old" for at in range(40) for number in range(3)})
    mount(house, bucket, proxy)
    first = house.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake", limit=3))
    assert [key.decode() for key in first.keys] == ["d00/f0", "d00/f1", "d00/f2"]
    house.ask(Method.DELETE, api.DeleteRequest("/lake/d30/f1"))
    scribe = Scribe(house)
    scribe.write("/lake/d31/f1", b"newer")
    scribe.write("/lake/d32/g", b"new")
    bucket.put("d33/outside", b"")
    proxy.forget()
    rest = house.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake", after=first.next))
    sizes = {key.decode(): decode_inode(raw).size for key, raw in zip(rest.keys, rest.inodes, strict=True)}
    assert "d30/f1" not in sizes
    assert (sizes["d31/f1"], sizes["d32/g"], sizes["d30/f0"]) == (5, 3, 3)
    assert "d33/outside" not in sizes  # as old as what was listed
    assert proxy.count("list") <= 4
    house.now_s += 61
    assert "d33/outside" in keys(house)


def test_a_stretch_is_believed_no_longer_than_the_interval_and_never_by_who_wants_to_know_now(
    house: House, bucket: Bucket, proxy: StoreProxy
) -> None:
    bucket.put_all({f"d{at:02}/f": b"" for at in range(40)})
    mount(house, bucket, proxy, sync_interval_s=10.0)
    house.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake", limit=2))
    bucket.put("d30/g", b"")
    assert "d30/g" in keys(house, interval_s=0.0)
    bucket.put("d31/g", b"")
    house.now_s += 11
    assert "d31/g" in keys(house)


def test_a_store_that_changes_while_it_is_listed_shows_what_was_there_all_along(
    house: House, bucket: Bucket, proxy: StoreProxy
) -> None:
    stay = {f"d{at:03}/stays{number}": b"" for at in range(400) for number in range(3)}
    go = {f"d{at:03}/goes": b"" for at in range(0, 400, 7)}
    bucket.put_all(stay | go)
    mount(house, bucket, proxy)
    found: list[str] = []
    position: bytes | None = b""
    gone = iter(sorted(go))
    while position is not None:
        answer = house.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake", after=position, limit=100))
        found += map(bytes.decode, answer.keys)
        position = answer.next
        bucket.delete(*[key for key, _ in zip(gone, range(5), strict=False)])
        house.now_s += 7
    assert found == sorted(set(found))
    assert set(stay) <= set(found) <= set(stay | go)


def test_a_store_that_fails_amid_a_listing_is_asked_again_by_the_next(
    house: House, small: Bucket, proxy: StoreProxy
) -> None:
    mount(house, small, proxy)
    first = house.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake", limit=500))
    house.restart()
    house.watch.error = UfsUnreachable("no route")
    with pytest.raises(UfsUnreachable):
        keys(house, after=first.next)
    house.watch.error = None
    house.now_s += 61
    assert keys(house, after=first.next) == KEYS[500:]


def test_a_mount_that_is_changed_has_its_store_listed_anew(house: House, bucket: Bucket, proxy: StoreProxy) -> None:
    bucket.put_all({f"d{at:02}/f": b"" for at in range(40)})
    mount(house, bucket, proxy)
    first = house.ask(Method.LIST_KEYS, api.ListKeysRequest("/lake", limit=2))
    bucket.put("d30/g", b"")
    house.ask(Method.MOUNT_UPDATE, api.MountUpdateRequest("/lake", {"list_page": "500"}))
    assert "d30/g" in keys(house, after=first.next)


def test_what_was_listed_while_a_directory_moved_says_nothing_of_where_it_is_then(
    house: House, bucket: Bucket, proxy: StoreProxy
) -> None:
    bucket.put_all({f"a/d{at:02}/f": b"" for at in range(40)})
    mount(house, bucket, proxy)
    before = {path: house.stat(path).id for path in tree(house, "/lake/a")}
    ended(house, rename(house, "/lake/a", "/lake/b"))  # lists a/, and so all keys behind it
    proxy.forget()
    assert ended(house, start(house, "sync", "/lake/b")).failed == 0
    assert proxy.count("list") <= 5
    found = {path: house.namespace.lookup(parse_path(path.replace("/a", "/b"))).inode for path in before}
    assert {path: inode and inode.id for path, inode in found.items()} == before


def test_what_was_listed_before_a_directory_was_removed_says_nothing_of_a_new_one_there(
    house: House, bucket: Bucket, proxy: StoreProxy
) -> None:
    bucket.put_all({f"d{at:02}/{key}": b"" for at in range(20) for key in ("f", "s/f")})
    mount(house, bucket, proxy)
    assert len(keys(house)) == 40  # so the stretch that was listed is believed
    for path in ("f", "s/f", "s", ""):
        house.ask(Method.DELETE, api.DeleteRequest(f"/lake/d10/{path}".removesuffix("/")))
    scribe = Scribe(house)
    scribe.write("/lake/d10/s/new", b"")
    assert ended(house, start(house, "sync", "/lake")).failed == 0
    assert tree(house, "/lake/d10") == ["/lake/d10/s/", "/lake/d10/s/new"]
    assert proxy.count("list") <= 5


def test_local_directories_are_never_walked_for_others(house: House, data: Path) -> None:
    lake = Lake(data, None)
    for at in range(20):
        lake.put(f"d{at:02}/f")
    lake.mount(house)
    house.asked()
    assert keys(house) == [f"d{at:02}/f" for at in range(20)]
    assert "scan" not in house.asked()


names = st.text("ab-.0é", min_size=0, max_size=2).filter(lambda name: name not in {".", ".."})
some_keys = st.sets(
    st.lists(names, min_size=1, max_size=4).map("/".join).filter(lambda key: key.strip("/") and key[0] != "/")
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(objects=some_keys, list_page=st.sampled_from(["1", "2", "3", "1000"]))
def test_any_bucket_is_known_as_its_listings_with_a_delimiter_tell_it(
    house: House, make_bucket: Callable[[], Bucket], objects: set[str], list_page: str
) -> None:
    bucket = make_bucket()
    for key in objects:
        bucket.put(key, key.encode())
    options = {**bucket.options, "list_page": list_page}
    flat, plain = f"/flat-{bucket.name}", f"/plain-{bucket.name}"
    for path in (flat, plain):
        house.ask(Method.MOUNT_ADD, api.MountAddRequest(path, bucket.uri, options, shared=True))
    known = keys(house, flat)
    reachable = {key for key in objects if not any(map(name_problem, key.encode().removesuffix(b"/").split(b"/")))}
    assert set(known) == reachable
    below = [each.removeprefix(flat) for each in tree(house, flat)]
    assert [each.removeprefix(plain) for each in tree(house, plain)] == below
    for each in below:
        assert _record(house, flat + each) == _record(house, plain + each)


def _record(house: House, path: str) -> dict[str, object]:
    """What the tree says of a file, or of a directory whose path ends in ``/``, but for its numbers."""
    found = house.namespace.lookup(parse_path(path.removesuffix("/")))
    inode = found.inode
    if not path.endswith("/") and inode is not None and inode.is_directory and found.parent is not None:
        inode = house.namespace.get_inode(found.parent.id, parse_path(path)[-1])
    assert inode is not None
    fields = msgspec.structs.asdict(inode)
    return {name: fields[name] for name in ("kind", "size", "mtime_ns", "flags", "fingerprint")}
