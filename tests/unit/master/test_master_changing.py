"""Changes, pins and frees: decided by apply, told to workers, audited, refused where they must be."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from lakes import ended, start
from master_house import House, write
from scribe import Scribe

from monofs.config.schema import Config, SecurityConfig
from monofs.model.errors import (
    AlreadyExists,
    IsADirectory,
    NotEmpty,
    NotFound,
    Overloaded,
    PermissionDenied,
)
from monofs.model.inode import Inode, Kind
from monofs.model.principal import Principal, Right
from monofs.observe.audit import AUDIT_LOGGER
from monofs.rpc import api
from monofs.rpc.api import FeedKind, Method, RequestId

ADA = Principal("ada", uid=1000, groups=(100,))


def inode_of(answer: api.InodeAnswer) -> Inode:
    return msgspec.msgpack.decode(answer.inode, type=Inode)


def feed(house: House) -> list[tuple[int, list[int]]]:
    return [(kind, contents) for _, kind, contents in house.namespace.feed(0, 1000)]


def test_directories_and_files_are_made_renamed_and_deleted(house: House) -> None:
    made = inode_of(house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/a/b", 0o750, parents=True)))
    assert (made.kind, made.mode) == (Kind.DIRECTORY, 0o750)
    with pytest.raises(AlreadyExists):
        house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/a/b"))
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/a/b", exist_ok=True))
    created = inode_of(house.ask(Method.CREATE, api.CreateRequest("/a/b/f")))
    renamed = inode_of(house.ask(Method.RENAME, api.RenameRequest("/a/b/f", "/a/g")))
    assert renamed.id == created.id
    with pytest.raises(NotEmpty):
        house.ask(Method.DELETE, api.DeleteRequest("/a"))
    house.ask(Method.DELETE, api.DeleteRequest("/a/b"))
    house.ask(Method.DELETE, api.DeleteRequest("/a/g"))
    assert house.list("/a") == []
    with pytest.raises(NotFound):
        house.ask(Method.DELETE, api.DeleteRequest("/a/g"))


def test_the_maker_owns_what_he_makes(house: House) -> None:
    house.ask(Method.CREATE, api.CreateRequest("/f", 0o7644), ADA)
    inode = house.stat("/f")
    assert (inode.uid, inode.gid) == (1000, 100)


def test_a_retry_under_the_same_request_id_applies_once(house: House) -> None:
    request = api.CreateRequest("/f", request=RequestId(os.urandom(16), 1, 1))
    first = house.ask(Method.CREATE, request)
    assert house.ask(Method.CREATE, request) == first
    with pytest.raises(AlreadyExists):
        house.ask(Method.CREATE, api.CreateRequest("/f"))


def test_changes_wait_while_the_metadata_database_lags_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(house.store), "held_back", property(lambda _: True))
    with pytest.raises(Overloaded, match="lags behind"):
        house.ask(Method.CREATE, api.CreateRequest("/f"))
    with pytest.raises(Overloaded):
        house.ask(Method.FREE, api.FreeRequest("/", recursive=True)) if house.list("/") else house.ask(
            Method.SET_PIN, api.SetPinRequest("/", True)
        )


def test_freeing_tells_workers_what_to_drop_and_keeps_what_is_pinned(house: House, data: Path) -> None:
    (data / "p").mkdir()
    for name in ("a", "b", "p/c", "p/d"):
        write(data / name, b"1")
    (data / "empty").touch()
    house.mount("/lake", data)
    house.list("/lake")
    house.list("/lake/p")
    contents = {name: house.stat(f"/lake/{name}").content for name in ("a", "b", "p/c", "p/d")}
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/p", True))
    assert feed(house) == [(FeedKind.PIN, [contents["p/c"], contents["p/d"]])]
    with pytest.raises(IsADirectory, match="recursively"):
        house.ask(Method.FREE, api.FreeRequest("/lake"))
    assert house.ask(Method.FREE, api.FreeRequest("/lake", recursive=True)) == api.FreeAnswer(2, 2, 0)
    assert feed(house)[1:] == [(FeedKind.FREE, [contents["a"], contents["b"]])]
    assert house.ask(Method.FREE, api.FreeRequest("/lake/p/c")) == api.FreeAnswer(0, 1, 0)
    assert house.ask(Method.FREE, api.FreeRequest("/lake/p/c", force=True)) == api.FreeAnswer(1, 0, 0)
    assert feed(house)[2:] == [(FeedKind.FREE_FORCED, [contents["p/c"]])]
    with pytest.raises(NotFound):
        house.ask(Method.FREE, api.FreeRequest("/lake/none"))


def test_what_only_the_cache_has_is_not_counted_as_freed(house: House, data: Path) -> None:
    house.mount("/lake", data)
    Scribe(house).write("/lake/kept", b"1", write_type="MUST_CACHE")
    house.list("/lake")
    for path in ("/lake/kept", "/lake"):
        assert house.ask(Method.FREE, api.FreeRequest(path, recursive=True, force=True)) == api.FreeAnswer(0, 0, 0)
        assert ended(house, start(house, "free", path, force="true")).done == 0
    assert feed(house) == []


def test_a_large_tree_is_freed_in_records_of_a_thousand(house: House, data: Path) -> None:
    for number in range(1500):
        (data / f"f{number}").write_bytes(b"1")
    (data / "d" / "e").mkdir(parents=True)
    for number in range(700):
        (data / "d" / "e" / f"g{number}").write_bytes(b"1")
    house.mount("/lake", data)
    house.list("/lake")
    house.list("/lake/d")
    house.list("/lake/d/e")
    assert house.ask(Method.FREE, api.FreeRequest("/", recursive=True)).files == 2200
    assert [len(contents) for _, contents in feed(house)] == [1000, 1000, 200]
    assert len({content for _, contents in feed(house) for content in contents}) == 2200


def test_unpinning_leaves_what_another_pin_covers(house: House, data: Path) -> None:
    (data / "p" / "q").mkdir(parents=True)
    write(data / "p" / "f", b"1")
    write(data / "p" / "q" / "g", b"1")
    house.mount("/lake", data)
    for path in ("/lake", "/lake/p", "/lake/p/q"):
        house.list(path)
    first, second = house.stat("/lake/p/f").content, house.stat("/lake/p/q/g").content
    for path in ("/lake/p", "/lake/p/q"):
        house.ask(Method.SET_PIN, api.SetPinRequest(path, True))
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/p", False))
    assert feed(house)[-1] == (FeedKind.UNPIN, [first])
    assert house.ask(Method.STAT, api.StatRequest("/lake/p/q/g")).pinned
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/p", True))
    told = len(feed(house))
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/p/q", False))
    assert len(feed(house)) == told
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/p", False))
    assert sorted(feed(house)[-1][1]) == sorted([first, second])


def test_a_pinned_directory_pins_what_comes_and_what_changes_below_it(house: House, data: Path) -> None:
    (data / "p" / "q").mkdir(parents=True)
    write(data / "p" / "old", b"1")
    house.mount("/lake", data)
    house.stat("/lake/p/old")
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/p", True))
    told = len(feed(house))
    write(data / "p" / "new", b"12")
    write(data / "p" / "q" / "listed", b"123")
    write(data / "outside", b"1")
    new = house.stat("/lake/p/new").content
    house.list("/lake/p/q")
    listed = house.stat("/lake/p/q/listed").content
    house.stat("/lake/outside")
    assert feed(house)[told:] == [(FeedKind.PIN, [new]), (FeedKind.PIN, [listed])]
    write(data / "p" / "new", b"changed")
    changed = house.stat("/lake/p/new", 0).content
    assert feed(house)[told + 2 :] == [(FeedKind.RETIRED, [new]), (FeedKind.PIN, [changed])]


def test_a_file_nobody_has_asked_for_yet_can_be_pinned(house: House, data: Path) -> None:
    write(data / "unseen", b"1")
    house.mount("/lake", data)
    house.ask(Method.SET_PIN, api.SetPinRequest("/lake/unseen", True))
    assert house.ask(Method.STAT, api.StatRequest("/lake/unseen")).pinned
    with pytest.raises(NotFound):
        house.ask(Method.SET_PIN, api.SetPinRequest("/lake/never", True))


def test_pinned_files_are_opened_into_the_pinned_cache_group(house: House, data: Path) -> None:
    from monofs.model.capability import open_capability

    write(data / "f", b"1")
    house.mount("/lake", data)
    groups = []
    for pinned in (False, True):
        house.stat("/lake/f")
        house.ask(Method.SET_PIN, api.SetPinRequest("/lake/f", pinned))
        opened = house.ask(Method.OPEN, api.OpenRequest("/lake/f"))
        keys, cluster = house.master.members._keys, house.namespace.cluster
        groups.append(open_capability(opened.capability, keys, cluster, 0).group)
    assert groups == [0, 1]
    renewed = house.ask(Method.RENEW, api.RenewRequest([opened.capability])).capabilities[0]
    assert open_capability(renewed, keys, cluster, 0).group == 0, "it may be unpinned by now"


def test_rights_bound_what_a_principal_may_do(house: House) -> None:
    reader = replace(ADA, rights=Right.READ)
    writer = replace(ADA, rights=Right.WRITE)
    for method, request in (
        (Method.CREATE, api.CreateRequest("/f")),
        (Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/d")),
        (Method.DELETE, api.DeleteRequest("/f")),
        (Method.RENAME, api.RenameRequest("/f", "/g")),
        (Method.SET_PIN, api.SetPinRequest("/", True)),
        (Method.FREE, api.FreeRequest("/", recursive=True)),
    ):
        with pytest.raises(PermissionDenied, match="write"):
            house.ask(method, request, reader)
    house.ask(Method.CREATE, api.CreateRequest("/f"), writer)
    for method, request in (
        (Method.STAT, api.StatRequest("/f")),
        (Method.STAT_MANY, api.StatManyRequest(["/f"])),
        (Method.LIST, api.ListRequest("/")),
        (Method.OPEN, api.OpenRequest("/f")),
        (Method.WHY, api.StatRequest("/f")),
        (Method.CLUSTER, api.ClusterRequest()),
        (Method.REPORT, api.ReportRequest()),
        (Method.MOUNT_LIST, api.Empty()),
    ):
        with pytest.raises(PermissionDenied, match="read"):
            house.ask(method, request, writer)
        house.ask(method, request, reader)


def test_modes_are_enforced_when_permissions_are_on(make_house: Callable[..., House], data: Path) -> None:
    house = make_house(Config(security=SecurityConfig(permissions=True)))
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/private", 0o700))
    house.ask(Method.CREATE, api.CreateRequest("/private/f"))
    house.ask(Method.MAKE_DIRECTORY, api.MakeDirectoryRequest("/open", 0o777))
    house.ask(Method.CREATE, api.CreateRequest("/open/secret", 0o600))
    house.ask(Method.CREATE, api.CreateRequest("/open/mine"), ADA)
    for method, request in (
        (Method.STAT, api.StatRequest("/private/f")),
        (Method.STAT, api.StatRequest("/private/none")),
        (Method.LIST, api.ListRequest("/private")),
        (Method.OPEN, api.OpenRequest("/open/secret")),
        (Method.CREATE, api.CreateRequest("/private/g")),
        (Method.CREATE, api.CreateRequest("/g")),
        (Method.DELETE, api.DeleteRequest("/private/f")),
        (Method.RENAME, api.RenameRequest("/open/mine", "/mine")),
        (Method.SET_PIN, api.SetPinRequest("/open/secret", True)),
        (Method.FREE, api.FreeRequest("/open/secret")),
        (Method.WHY, api.StatRequest("/private/f")),
    ):
        with pytest.raises(PermissionDenied):
            house.ask(method, request, ADA)
    batch = house.ask(Method.STAT_MANY, api.StatManyRequest(["/open/mine", "/private/f"]), ADA)
    assert batch.failures[1].code == PermissionDenied.code
    assert house.ask(Method.STAT, api.StatRequest("/open/secret"), ADA)
    assert house.ask(Method.LIST, api.ListRequest("/open"), ADA).names == [b"mine", b"secret"]
    house.ask(Method.DELETE, api.DeleteRequest("/open/mine"), ADA)


def test_every_change_leaves_one_audit_record(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=AUDIT_LOGGER)
    house.ask(Method.CREATE, api.CreateRequest("/f"), ADA)
    with pytest.raises(AlreadyExists):
        house.ask(Method.CREATE, api.CreateRequest("/f"), ADA)
    with pytest.raises(PermissionDenied):
        house.ask(Method.DELETE, api.DeleteRequest("/f"), replace(ADA, rights=Right.READ))
    house.ask(Method.RENAME, api.RenameRequest("/f", "/g"))
    house.ask(Method.SET_PIN, api.SetPinRequest("/g", True))
    house.ask(Method.FREE, api.FreeRequest("/g"))
    fields = [record.fields for record in caplog.records if record.name == AUDIT_LOGGER]
    shown = [(one["command"], one["source"], one["target"], one["allowed"], one["succeeded"]) for one in fields]
    assert shown == [
        ("create", "/f", "", True, True),
        ("create", "/f", "", True, False),
        ("delete", "/f", "", False, False),
        ("rename", "/f", "/g", True, True),
        ("pin", "/g", "", True, True),
        ("free", "/g", "", True, True),
    ]
    assert {one["peer"] for one in fields} == {"direct"}


def test_a_listener_that_fails_keeps_nobody_from_hearing_the_result(house: House) -> None:
    def boom() -> None:
        raise ValueError("a bug")

    house.ask(Method.CREATE, api.CreateRequest("/f"))
    house.loop.do(lambda: house.master._proposer.on_applied(boom))
    house.ask(Method.SET_PIN, api.SetPinRequest("/f", True))
    assert house.ask(Method.STAT, api.StatRequest("/f")).pinned
