"""What a reader of the namespace sees: lazy loading, freshness, absence, batches, stores that are down."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from master_house import ANSWERS, House, write

from monofs.config.schema import Config, NamespaceConfig, SecurityConfig
from monofs.model.capability import Capability, peek_capability
from monofs.model.errors import (
    DeadlineExceeded,
    InvalidArgument,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotFound,
    PermissionDenied,
    UfsDenied,
    UfsPaused,
    UfsUnreachable,
)
from monofs.model.inode import Kind
from monofs.model.options import LoadType
from monofs.model.principal import Principal
from monofs.rpc import api
from monofs.rpc.api import Method, ReadOptions

ALWAYS_LOOK = 0.0
NEVER_LOOK = -1.0


def test_a_path_is_loaded_when_it_is_first_asked_for(house: House, data: Path) -> None:
    (data / "a" / "b").mkdir(parents=True)
    (data / "a" / "b" / "f").write_bytes(b"hello")
    house.mount("/lake", data)
    house.asked()
    inode = house.stat("/lake/a/b/f")
    assert (inode.kind, inode.size) == (Kind.FILE, 5)
    assert house.asked() == ["head"]
    assert house.stat("/lake/a/b/f") == inode
    assert house.asked() == []
    assert house.list("/lake/a/b") == ["f"]
    assert house.stat("/lake/a/b/f").content == inode.content
    assert house.asked() == ["list"]


def test_after_a_listing_its_children_need_no_look_within_the_interval(house: House, data: Path) -> None:
    for name in ("x", "y"):
        write(data / name, b"1")
    (data / "sub").mkdir()
    house.mount("/lake", data)
    assert house.list("/lake") == ["sub/", "x", "y"]
    house.asked()
    for name in ("x", "y", "sub"):
        house.stat(f"/lake/{name}")
    with pytest.raises(NotFound):
        house.stat("/lake/z")
    assert house.asked() == []
    house.now_s += 61
    house.stat("/lake/x")
    assert house.asked() == ["head"]


def test_a_file_changed_behind_our_back_gets_a_new_content_id_after_the_interval(house: House, data: Path) -> None:
    write(data / "f", b"old")
    house.mount("/lake", data)
    old = house.stat("/lake/f")
    write(data / "f", b"newer")
    assert house.stat("/lake/f") == old
    house.now_s += 61
    new = house.stat("/lake/f")
    assert new.size == 5
    assert new.content != old.content
    assert new.id == old.id
    feed = house.namespace.feed(0, 10)
    assert [(kind, contents) for _, kind, contents in feed] == [(api.FeedKind.RETIRED, [old.content])]


def test_a_removed_file_disappears_and_a_removed_directory_with_all_below(house: House, data: Path) -> None:
    (data / "d").mkdir()
    write(data / "d" / "f", b"1")
    write(data / "g", b"1")
    house.mount("/lake", data)
    house.stat("/lake/d/f")
    house.stat("/lake/g")
    shutil.rmtree(data / "d")
    (data / "g").unlink()
    house.now_s += 61
    with pytest.raises(NotFound, match="/lake/d/f: no such file"):
        house.stat("/lake/d/f")
    with pytest.raises(NotFound):
        house.list("/lake/d")
    assert house.list("/lake") == []
    house.loop.do(lambda: None)
    assert house.ask(Method.FSCK, api.Empty()).checks.values()


def test_a_file_may_become_a_directory_and_back(house: House, data: Path) -> None:
    write(data / "x", b"1")
    house.mount("/lake", data)
    assert house.stat("/lake/x").kind == Kind.FILE
    (data / "x").unlink()
    (data / "x").mkdir()
    write(data / "x" / "y", b"22")
    house.now_s += 61
    assert house.stat("/lake/x/y").size == 2
    assert house.stat("/lake/x").kind == Kind.DIRECTORY
    assert house.list("/lake") == ["x/"]
    shutil.rmtree(data / "x")
    write(data / "x", b"333")
    house.now_s += 61
    assert house.stat("/lake/x").size == 3
    with pytest.raises(NotADirectory, match="a component of the path is a file"):
        house.stat("/lake/x/y")
    with pytest.raises(NotADirectory):
        house.list("/lake/x")
    assert house.list("/lake") == ["x"]


def test_interval_0_looks_each_time_and_minus_1_never_at_what_is_known(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.asked()
    for _ in range(3):
        house.stat("/lake/f", ALWAYS_LOOK)
    assert house.asked() == ["head"] * 3
    house.now_s += 1e9
    house.stat("/lake/f", NEVER_LOOK)
    assert house.asked() == []
    for _ in range(2):
        house.list("/lake", ALWAYS_LOOK)
    assert house.asked() == ["list"] * 2
    house.now_s += 1e9
    house.list("/lake", NEVER_LOOK)
    assert house.asked() == []


def test_a_mounts_own_interval_stands_unless_the_request_names_one(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data, sync_interval_s=5.0)
    house.stat("/lake/f")
    house.asked()
    house.now_s += 6
    house.stat("/lake/f", 10.0)
    assert house.asked() == []
    house.stat("/lake/f")
    assert house.asked() == ["head"]


def test_listed_directories_stay_known_after_a_restart_with_interval_minus_1(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.list("/lake")
    house.restart()
    house.asked()
    assert house.list("/lake", NEVER_LOOK) == ["f"]
    with pytest.raises(NotFound):
        house.stat("/lake/g", NEVER_LOOK)
    assert house.asked() == []
    house.list("/lake")
    assert house.asked() == ["list"]


def test_missing_paths_are_remembered_for_the_interval(house: House, data: Path) -> None:
    house.mount("/lake", data)
    house.asked()
    for path in ("/lake/a/b/c", "/lake/a/b/c", "/lake/a", "/lake/a"):
        with pytest.raises(NotFound):
            house.stat(path)
    assert house.asked() == ["head", "head"]
    with pytest.raises(NotFound):
        house.stat("/lake/a/other")
    assert house.asked() == []
    house.now_s += 61
    with pytest.raises(NotFound):
        house.stat("/lake/a")
    assert house.asked() == ["head"]


def test_load_types_always_and_never_override_what_is_remembered_of_missing_paths(house: House, data: Path) -> None:
    house.mount("/lake", data)
    house.asked()
    with pytest.raises(NotFound):
        house.stat("/lake/f", load=LoadType.NEVER)
    assert house.list("/lake", load=LoadType.NEVER) == []
    assert house.asked() == []
    with pytest.raises(NotFound):
        house.stat("/lake/f")
    write(data / "f", b"1")
    with pytest.raises(NotFound):
        house.stat("/lake/f")
    assert house.stat("/lake/f", load=LoadType.ALWAYS).size == 1
    assert house.asked() == ["head", "head"]
    with pytest.raises(InvalidArgument, match="ONCE, ALWAYS, NEVER"):
        house.stat("/lake/g", load="SOMETIMES")


def test_the_memory_of_missing_paths_is_bounded(make_house: Callable[..., House], data: Path) -> None:
    house = make_house(Config(namespace=NamespaceConfig(absent_entries=1)))
    house.mount("/lake", data)
    house.asked()
    for name in ("a", "b", "b", "a"):
        with pytest.raises(NotFound):
            house.stat(f"/lake/{name}")
    assert house.asked() == ["head"] * 3


def test_racy_files_are_looked_at_again_until_they_are_settled(house: House, data: Path) -> None:
    house.watch.racy = True
    (data / "f").write_bytes(b"1")
    house.mount("/lake", data)
    house.asked()
    house.stat("/lake/f")
    house.stat("/lake/f")
    house.list("/lake")
    house.stat("/lake/f")
    assert house.asked() == ["head", "head", "list", "head"]
    house.watch.racy = False
    house.stat("/lake/f")
    house.stat("/lake/f")
    assert house.asked() == ["head"]


def test_many_who_ask_for_one_path_share_one_look(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.asked()
    house.watch.gate = threading.Event()
    waiting = [house.begin(Method.STAT, api.StatRequest("/lake/f")) for _ in range(50)]
    house.loop.do(lambda: None)
    house.watch.gate.set()
    answers = [wait() for wait in waiting]
    assert len({bytes(answer.inode) for answer in answers}) == 1
    assert house.asked() == ["head"]


def test_a_batch_of_a_thousand_in_one_directory_is_one_listing(house: House, data: Path) -> None:
    (data / "d").mkdir()
    paths = [f"/lake/d/part-{number:05d}" for number in range(1000)]
    for path in paths:
        write(data / "d" / path.rsplit("/", 1)[1], b"x" * 10)
    house.mount("/lake", data)
    house.asked()
    answer = house.ask(Method.OPEN_MANY, api.OpenManyRequest([*paths, "/lake/d/none", "/lake/d", "nonsense"][3:]))
    assert len(answer.answers) == 1000
    assert sorted(answer.failures) == [997, 998, 999]
    codes = [answer.failures[position].code for position in (997, 998, 999)]
    assert codes == [NotFound.code, IsADirectory.code, InvalidPath.code]
    assert all(opened.capability for opened in answer.answers if opened is not None)
    assert sorted(house.asked()) == [
        "head",
        "head",
        "list",
    ]  # the directory, asked for itself too; one page for the rest
    stats = house.ask(Method.STAT_MANY, api.StatManyRequest(paths))
    assert stats.failures == {}
    assert house.asked() == []


def test_a_few_of_a_large_directory_are_asked_for_one_by_one(house: House, data: Path) -> None:
    for number in range(3000):
        (data / f"f{number:04d}").touch()
    house.mount("/lake", data)
    house.asked()
    few = [f"/lake/f{number:04d}" for number in (1, 1500, 2999)]
    house.ask(Method.STAT_MANY, api.StatManyRequest(few))
    assert house.asked() == ["head"] * 3
    scattered = [f"/lake/f{number:04d}" for number in range(7, 3000, 299)]
    answer = house.ask(Method.STAT_MANY, api.StatManyRequest(scattered))
    assert answer.failures == {}
    asked = house.asked()
    assert asked.count("list") <= 2
    assert len(asked) <= len(scattered) + 1


def test_a_batch_over_many_directories_and_mounts_answers_each_path(house: House, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for directory in (data, other):
        for number in range(12):
            (directory / f"d{number}").mkdir()
            write(directory / f"d{number}" / "f", b"x")
    house.mount("/one", data)
    house.mount("/two", other)
    paths = [f"/{mount}/d{number}/f" for mount in ("one", "two", "none") for number in range(12)]
    answer = house.ask(Method.STAT_MANY, api.StatManyRequest(paths))
    assert [one is not None for one in answer.answers] == [True] * 24 + [False] * 12
    assert {failure.code for failure in answer.failures.values()} == {NotFound.code}


def test_a_batch_has_a_bound(house: House) -> None:
    with pytest.raises(InvalidArgument, match="at most 1000"):
        house.ask(Method.STAT_MANY, api.StatManyRequest(["/"] * 1001))


def test_a_store_that_is_down_leaves_known_metadata_and_says_so(house: House, data: Path) -> None:
    write(data / "f", b"1")
    (data / "d").mkdir()
    house.mount("/lake", data)
    house.list("/lake")
    house.now_s += 61
    house.watch.error = UfsUnreachable("connection refused")
    assert house.stat("/lake/f").size == 1
    assert house.list("/lake") == ["d/", "f"]
    assert house.ask(Method.OPEN, api.OpenRequest("/lake/f")).capability
    for ask in (
        lambda: house.stat("/lake/f", ALWAYS_LOOK),
        lambda: house.stat("/lake/unknown"),
        lambda: house.list("/lake/d"),
        lambda: house.list("/lake", ALWAYS_LOOK),
    ):
        with pytest.raises(UfsUnreachable, match="connection refused"):
            ask()
    facts = house.ask(Method.WHY, api.StatRequest("/lake/f")).facts
    assert (facts["store_state"], facts["stale_served"]) == ("unavailable", True)
    assert house.ask(Method.MOUNT_LIST, api.Empty()).mounts[0].state == "unavailable"
    batch = house.ask(Method.STAT_MANY, api.StatManyRequest(["/lake/f", "/lake/unknown"]))
    assert [one is not None for one in batch.answers] == [True, False]
    assert batch.failures[1].code == UfsPaused.code
    house.watch.error = None
    house.now_s += 61
    write(data / "f", b"22")
    assert house.stat("/lake/f").size == 2
    assert house.ask(Method.MOUNT_LIST, api.Empty()).mounts[0].state == "ok"


def test_what_is_known_does_not_wait_long_for_a_store_that_is_silent(
    make_house: Callable[..., House], data: Path
) -> None:
    config = Config()
    house = make_house(replace(config, namespace=replace(config.namespace, store_patience_s=0.05)))
    for name in "fgh":
        write(data / name, b"1")
    house.mount("/lake", data)
    house.list("/lake")
    house.now_s += 61
    house.watch.gate = threading.Event()
    assert house.stat("/lake/f").size == 1
    assert house.list("/lake") == ["f", "g", "h"]
    assert house.ask(Method.OPEN, api.OpenRequest("/lake/g")).capability
    assert None not in house.ask(Method.STAT_MANY, api.StatManyRequest(["/lake/f", "/lake/h"])).answers
    facts = house.ask(Method.WHY, api.StatRequest("/lake/h")).facts
    assert (facts["store_state"], facts["stale_served"]) == ("unavailable", True)
    assert "has not answered for 0.05 s" in facts["store_error"]
    waiting = [
        house.begin(Method.STAT, api.StatRequest("/lake/f", api.ReadOptions(0.0))),
        house.begin(Method.STAT, api.StatRequest("/lake/unknown")),
    ]
    house.watch.gate.set()
    house.watch.gate = None
    assert waiting[0]().mount
    with pytest.raises(NotFound):
        waiting[1]()
    assert house.ask(Method.MOUNT_LIST, api.Empty()).mounts[0].state == "ok"
    write(data / "f", b"22")
    house.now_s += 61
    assert house.stat("/lake/f").size == 2


def test_a_request_whose_deadline_passes_names_the_store_and_the_path_it_waited_for(house: House, data: Path) -> None:
    house.mount("/lake", data)
    house.watch.gate = threading.Event()
    for method, request, path in (
        (Method.STAT, api.StatRequest("/lake/f"), "/lake/f"),
        (Method.LIST, api.ListRequest("/lake"), "/lake"),
        (Method.OPEN_MANY, api.OpenManyRequest(["/lake/f", "/lake/g"]), "/lake/f and 1 other paths"),
        (Method.MOUNT_TEST, api.MountTestRequest("/lake"), ""),
    ):
        told = f"0.1 s allowed .* while waiting for the store file://{data} to (answer|tell about {path})$"
        with pytest.raises(DeadlineExceeded, match=told):
            house.loop.begin(house.client.call, method, request, ANSWERS[method], 0.1)()
    house.watch.gate.set()


def test_a_store_that_is_down_is_not_asked_again_at_once(house: House, data: Path) -> None:
    house.mount("/lake", data)
    house.asked()
    house.watch.error = UfsUnreachable("down")
    for _ in range(10):
        with pytest.raises(UfsUnreachable):
            house.stat("/lake/f")
    assert len(house.asked()) == 1
    house.now_s += 1
    with pytest.raises(UfsUnreachable):
        house.stat("/lake/f")
    assert len(house.asked()) == 1


def test_a_store_that_refuses_is_not_served_stale(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/lake", data)
    house.stat("/lake/f")
    house.now_s += 61
    house.watch.error = UfsDenied("the key was revoked")
    with pytest.raises(UfsDenied, match="revoked"):
        house.stat("/lake/f")


def test_a_store_that_hangs_fails_its_callers_at_the_deadline(make_house: Callable[..., House], data: Path) -> None:
    config = Config()
    house = make_house(replace(config, master=replace(config.master, store_timeout_s=0.2)))
    house.mount("/lake", data)
    house.watch.gate = threading.Event()
    with pytest.raises(UfsUnreachable, match=r"did not answer within 0.2 s"):
        house.stat("/lake/f")
    house.watch.gate.set()


def test_opening_gives_a_capability_that_names_the_content(house: House, data: Path) -> None:
    write(data / "f", b"hello")
    (data / "empty").touch()
    house.mount("/lake", data)
    opened = house.ask(Method.OPEN, api.OpenRequest("/lake/f"))
    from monofs.model.capability import open_capability

    keys = house.master.members._keys
    granted = open_capability(opened.capability, keys, house.namespace.cluster, opened.expires_s)
    inode = house.stat("/lake/f")
    assert (granted.content, granted.size, granted.key, granted.fingerprint) == (
        inode.content,
        5,
        "f",
        inode.fingerprint,
    )
    assert house.ask(Method.OPEN, api.OpenRequest("/lake/empty")).capability == b""
    with pytest.raises(IsADirectory):
        house.ask(Method.OPEN, api.OpenRequest("/lake"))
    with pytest.raises(NotFound):
        house.ask(Method.OPEN, api.OpenRequest("/lake/none"))


def test_only_who_may_read_a_file_gets_its_bytes_with_the_answer(make_house: Callable[..., House], data: Path) -> None:
    house = make_house(Config(security=SecurityConfig(permissions=True)))
    shown: list[Capability] = []

    def at_hand(granted: Capability, _: object) -> bytes:
        shown.append(granted)
        return b"hello"

    house.at_hand = at_hand
    house.restart()
    write(data / "f", b"hello")
    os.chmod(data / "f", 0o600)
    house.mount("/lake", data)
    opened = house.ask(Method.OPEN, api.OpenRequest("/lake/f", data_bytes=5))
    assert (opened.data, shown) == (b"hello", [peek_capability(opened.capability)])
    alone = house.ask(Method.OPEN, api.OpenRequest("/lake/f", data_bytes=5, data_alone=True))
    assert (alone.data, alone.capability) == (b"hello", b"")
    assert house.ask(Method.OPEN, api.OpenRequest("/lake/f", data_bytes=4, data_alone=True)).capability
    assert house.ask(Method.OPEN, api.OpenRequest("/lake/f", data_bytes=4)).data == b""
    assert house.ask(Method.OPEN, api.OpenRequest("/lake/f")).data == b""
    with pytest.raises(PermissionDenied):
        house.ask(Method.OPEN, api.OpenRequest("/lake/f", data_bytes=5), Principal("ada", uid=1000))
    assert len(shown) == 2, "the worker was asked for whom it may"


def test_renewing_prolongs_a_capability_unless_its_content_is_retired_or_it_is_too_old(
    house: House, data: Path
) -> None:
    from monofs.model.capability import Capability, open_capability, seal_capability

    write(data / "f", b"hello")
    write(data / "g", b"hello")
    house.mount("/lake", data)
    tokens = [house.ask(Method.OPEN, api.OpenRequest(path)).capability for path in ("/lake/f", "/lake/g")]
    write(data / "g", b"changed")
    house.now_s += 61
    house.stat("/lake/g")
    keys = house.master.members._keys
    held = open_capability(tokens[0], keys, house.namespace.cluster, 0)
    values = {name: getattr(held, name) for name in Capability.__struct_fields__}
    old = seal_capability(Capability(**(values | {"issued_s": 1, "expires_s": 301})), keys[1])
    answer = house.ask(Method.RENEW, api.RenewRequest([tokens[0], tokens[1], old]))
    assert answer.capabilities[1:] == [b"", b""]
    renewed = open_capability(answer.capabilities[0], keys, house.namespace.cluster, answer.expires_s)
    assert renewed.content == held.content
    damaged = house.ask(Method.RENEW, api.RenewRequest([tokens[0][:-1] + b"x", b"", tokens[0], b"y" * 9000]))
    assert [bool(token) for token in damaged.capabilities] == [False, False, True, False]


def test_why_tells_where_a_path_lies_and_how_old_the_knowledge_is(house: House, data: Path) -> None:
    write(data / "f", b"hello")
    house.mount("/lake", data)
    first = house.ask(Method.WHY, api.StatRequest("/lake/f")).facts
    assert first["answered_from"].startswith("store")
    house.now_s += 7
    facts = house.ask(Method.WHY, api.StatRequest("/lake/f")).facts
    assert facts["answered_from"].startswith("memory")
    assert (facts["mount"], facts["age_s"], facts["sync_interval_s"]) == ("/lake", 7.0, 60.0)
    assert facts["store"] == f"file://{data}/f"
    assert facts["kind"] == "file"
    house.ask(Method.CREATE, api.CreateRequest("/loose"))
    assert house.ask(Method.WHY, api.StatRequest("/loose")).facts["storage"].startswith("cache-only")
    with pytest.raises(InvalidPath):
        house.ask(Method.WHY, api.StatRequest("relative", ReadOptions()))


def test_the_root_and_cache_only_paths_need_no_store(house: House) -> None:
    assert house.stat("/").kind == Kind.DIRECTORY
    assert house.list("/") == []
    with pytest.raises(NotFound):
        house.stat("/nothing/here")
    assert house.asked() == []


def test_mounting_at_the_root_shows_the_store_there(house: House, data: Path) -> None:
    write(data / "f", b"1")
    house.mount("/", data)
    assert house.list("/") == ["f"]
    assert house.stat("/f").size == 1
    assert house.stat("/").kind == Kind.DIRECTORY
