"""Listings: merged page by page with the store, complete and without repetition while the store changes."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from master_house import House, write

from monofs.model.errors import InvalidArgument, NotADirectory, NotFound, NotReady, UfsUnreachable
from monofs.rpc import api
from monofs.rpc.api import Method, ReadOptions
from monofs.testing.buckets import Bucket

ALWAYS_LOOK = 0.0


def page(
    house: House, path: str, after: bytes = b"", limit: int = 1000, interval_s: float | None = None
) -> api.ListAnswer:
    answer = house.ask(Method.LIST, api.ListRequest(path, after, limit, ReadOptions(interval_s)))
    assert isinstance(answer, api.ListAnswer)
    return answer


def test_names_come_in_key_order_with_their_records(house: House, data: Path) -> None:
    (data / "a").mkdir()
    for name in ("a!", "a0", "b"):
        write(data / name, b"1")
    house.mount("/lake", data)
    answer = page(house, "/lake")
    assert answer.names == [b"a!", b"a/", b"a0", b"b"]
    assert len(answer.inodes) == 4
    assert answer.next is None


def test_a_large_directory_is_taken_over_page_by_page_with_the_next_one_ready(house: House, data: Path) -> None:
    for number in range(2500):
        (data / f"f{number:05d}").touch()
    house.mount("/lake", data)
    house.asked()
    first = page(house, "/lake")
    assert len(first.names) == 1000
    house.list("/lake")
    assert house.asked() == ["list"] * 3
    house.list("/lake")
    assert house.asked() == []
    assert house.namespace.counts()["inodes"] == 2502


def test_only_as_much_of_a_large_directory_is_taken_over_as_is_asked_for(house: House, data: Path) -> None:
    for number in range(4500):
        (data / f"f{number:05d}").touch()
    house.mount("/lake", data)
    house.asked()
    page(house, "/lake", limit=10)
    assert house.asked() == ["list"]
    page(house, "/lake", limit=10, after=b"f00900")
    assert len(house.asked()) == 0


def test_pages_may_be_of_any_size(house: House, data: Path) -> None:
    names = [f"f{number:04d}" for number in range(1200)]
    for name in names:
        (data / name).touch()
    house.mount("/lake", data)
    assert house.list("/lake", limit=7) == names
    assert house.list("/lake", limit=10_000) == names
    for limit in (0, -1, 10_001):
        with pytest.raises(InvalidArgument, match="limit"):
            page(house, "/lake", limit=limit)
    with pytest.raises(InvalidArgument):
        page(house, "/lake", after=b"x" * 258)


@pytest.mark.parametrize("interval_s", [None, ALWAYS_LOOK])
def test_paging_through_a_changing_directory_shows_every_stable_name_once(
    house: House, data: Path, interval_s: float | None
) -> None:
    dice = random.Random(7)
    stable = [f"f{number:05d}" for number in range(0, 10_000, 2)]
    moving = [f"f{number:05d}" for number in range(1, 10_000, 2)]
    for name in stable:
        (data / name).touch()
    for name in moving[::3]:
        (data / name).touch()
    house.mount("/lake", data)
    seen: list[str] = []
    after: bytes | None = b""
    while after is not None:
        answer = page(house, "/lake", after, 997, interval_s)
        assert answer.names == sorted(answer.names)
        seen += [name.decode() for name in answer.names]
        after = answer.next
        for name in dice.sample(moving, 60):
            if (data / name).exists():
                (data / name).unlink()
            else:
                (data / name).touch()
        house.now_s += dice.choice((0, 1, 61))
    assert len(seen) == len(set(seen))
    assert set(stable) <= set(seen)
    house.now_s += 61
    assert house.list("/lake", ALWAYS_LOOK) == sorted(entry.name for entry in data.iterdir())


def test_a_stale_listing_takes_over_only_the_differences(house: House, data: Path) -> None:
    for number in range(50):
        write(data / f"f{number:02d}", b"1")
    house.mount("/lake", data)
    house.list("/lake")
    before = house.namespace.applied_index
    house.now_s += 61
    house.list("/lake")
    assert house.namespace.applied_index == before
    (data / "f07").unlink()
    write(data / "f08", b"changed")
    write(data / "new", b"1")
    house.now_s += 61
    names = house.list("/lake")
    assert "f07" not in names
    assert "new" in names
    assert house.namespace.applied_index == before + 1


def test_a_directory_emptied_of_very_many_names_is_taken_over_in_slices(house: House, data: Path) -> None:
    for number in range(5000):
        (data / f"f{number:05d}").touch()
    house.mount("/lake", data)
    house.list("/lake")
    for entry in data.iterdir():
        entry.unlink()
    house.now_s += 61
    assert house.list("/lake") == []


def test_nested_mounts_and_their_ancestors_are_listed_although_the_store_lacks_them(
    house: House, data: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner / "deep", b"1")
    write(data / "f", b"1")
    house.mount("/lake", data)
    info = house.mount("/lake/way/down", inner)
    answer = page(house, "/lake")
    assert answer.names == [b"f", b"way/"]
    assert page(house, "/lake/way").mounts == {0: info.id}
    assert house.list("/lake/way/down") == ["deep"]
    house.now_s += 61
    assert house.list("/lake") == ["f", "way/"]
    assert house.list("/lake/way") == ["down/"]
    assert house.stat("/lake/way/down/deep").size == 1
    assert house.list("/") == ["lake/"]


def test_cache_only_directories_list_directly(house: House) -> None:
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/d/e", parents=True))
    house.ask(Method.CREATE, api.CreateRequest("/d/f"))
    assert house.list("/d", ALWAYS_LOOK) == ["e/", "f"]
    with pytest.raises(NotFound):
        house.list("/none")
    with pytest.raises(NotADirectory):
        house.list("/d/f")


def test_a_listing_of_something_not_there_or_not_a_directory_says_so(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    with pytest.raises(NotFound):
        house.list("/lake/none")
    with pytest.raises(NotADirectory):
        house.list("/lake/f")
    (data / "f").unlink()
    (data / "f").mkdir()
    house.now_s += 61
    assert house.list("/lake/f") == []


def test_a_directory_that_vanished_from_the_store_is_gone_from_the_tree(house: House, data: Path) -> None:
    (data / "d" / "e").mkdir(parents=True)
    write(data / "d" / "e" / "f", b"1")
    house.mount("/lake", data)
    house.list("/lake/d/e")
    (data / "d" / "e" / "f").unlink()
    (data / "d" / "e").rmdir()
    house.now_s += 61
    with pytest.raises(NotFound):
        house.list("/lake/d/e")
    assert house.list("/lake/d") == []


def test_many_who_list_one_directory_share_the_stores_pages(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.asked()
    house.watch.gate = threading.Event()
    waiting = [house.begin(Method.LIST, api.ListRequest("/lake")) for _ in range(20)]
    house.loop.do(lambda: None)
    house.watch.gate.set()
    assert {tuple(wait().names) for wait in waiting} == {(b"f",)}
    assert house.asked() == ["list"]


def test_a_look_in_the_air_ends_when_the_master_stops(house: House, data: Path) -> None:
    (data / "d").mkdir()
    write(data / "d" / "f", b"1")
    house.mount("/lake", data)
    house.watch.gate = gate = threading.Event()
    looks = [
        house.begin(Method.STAT, api.StatRequest("/lake/d/f")),
        house.begin(Method.LIST, api.ListRequest("/lake/d")),
    ]
    house.loop.do(lambda: None)
    house.stop()  # closes the namespace: whoever looks at it now meets a closed database
    gate.set()
    for look in looks:
        with pytest.raises(NotReady):
            look()
    house.start()


def test_names_no_path_can_hold_are_counted_and_reported_and_the_rest_is_listed(house: House, data: Path) -> None:
    write(data / "good", b"1")
    (data / "link").symlink_to("good")
    Path(str(data)).joinpath(b"bad\xff".decode("utf-8", "surrogateescape")).touch()
    house.mount("/lake", data)
    assert house.list("/lake") == ["good"]
    house.list("/lake", ALWAYS_LOOK)
    odd = house.ask(Method.REPORT, api.ReportRequest()).sections["odd_names"]
    assert odd["seen"] == 2
    assert any("bad\\xff" in shown for shown in odd["shown"])


def test_files_that_have_the_name_of_a_directory_are_reported_while_they_do(house: House, bucket: Bucket) -> None:
    def reported() -> list[str]:
        shown: list[str] = house.ask(Method.REPORT, api.ReportRequest()).sections["beside_directories"]["shown"]
        return shown

    for key in ("d/a", "d/a.b", "d/a/f", "d/b", "d/b.c/f", "e/f"):
        bucket.put(key, b"1")
    house.ask(Method.MOUNT_ADD, api.MountAddRequest("/lake", bucket.uri, bucket.options))
    assert house.list("/lake/d") == ["a", "a.b", "a/", "b", "b.c/"]
    house.list("/lake/e")
    assert reported() == ["/lake/d/a"]
    bucket.delete("d/a/f")
    house.list("/lake/d", ALWAYS_LOOK)
    assert reported() == []


def test_a_page_that_fails_in_the_background_is_asked_again_by_who_needs_it(house: House, data: Path) -> None:
    for number in range(1500):
        (data / f"f{number:05d}").touch()
    house.mount("/lake", data)
    first = page(house, "/lake", limit=10)
    assert first.next is not None
    house.watch.error = UfsUnreachable("down")
    second = page(house, "/lake", b"f00998", limit=1)
    third = page(house, "/lake", b"f00999", limit=1, interval_s=None) if second.next is None else None
    assert third is None
    with pytest.raises(UfsUnreachable):
        page(house, "/lake", b"f00999", limit=1)
    house.watch.error = None
    house.now_s += 31
    assert page(house, "/lake", b"f00999", limit=1).names == [b"f01000"]
