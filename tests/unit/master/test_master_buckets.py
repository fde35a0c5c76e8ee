"""Buckets that have a name of their own: made, told to workers, taken back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from master_house import SECRET, House, write

from monofs.metadata.tables import S3_KEYS_LEVEL
from monofs.model.errors import (
    AlreadyExists,
    InvalidArgument,
    NotADirectory,
    NotFound,
    NotReady,
    Overloaded,
    PermissionDenied,
)
from monofs.model.principal import Principal, Right
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.s3_keys import S3Keys

READER = Principal("bob", rights=Right.READ)


def name(house: House, bucket: str, path: str, principal: Principal | None = None) -> None:
    house.ask(Method.BUCKET_SET, api.BucketSetRequest(bucket, path), principal)


def named(house: House) -> dict[str, str]:
    return {each.name: each.path for each in house.ask(Method.BUCKET_LIST, api.Empty(), READER).buckets}


@pytest.fixture
def lake(house: House, data: Path) -> House:
    (data / "raw").mkdir()
    write(data / "file", b"1")
    house.mount("/lake", data)
    return house


def test_a_directory_is_a_bucket_under_any_name_until_it_is_taken_back(lake: House) -> None:
    name(lake, "raw-data", "/lake/raw")
    name(lake, "raw-data", "/lake/raw/")  # once more is no change
    name(lake, "everything", "/")
    assert named(lake) == {"everything": "/", "raw-data": "/lake/raw"}
    lake.restart()
    assert named(lake) == {"everything": "/", "raw-data": "/lake/raw"}
    with pytest.raises(AlreadyExists, match="/lake/raw"):
        name(lake, "raw-data", "/lake")
    name(lake, "raw-data", "")
    assert named(lake) == {"everything": "/"}
    with pytest.raises(NotFound):
        name(lake, "raw-data", "")


def test_workers_hear_of_it_with_their_heartbeat(lake: House) -> None:
    registered = lake.ask(Method.REGISTER, api.RegisterRequest(b"w" * 16, "127.0.0.1:29999", "", "boot", 1000, 10, 0))
    request = api.HeartbeatRequest(
        registered.worker, 0, 1000, 10, lake.namespace.mounts_index, 20.0, tokens_index=registered.tokens_index
    )
    waiting = lake.begin(Method.HEARTBEAT, request)
    name(lake, "raw-data", "/lake/raw")
    heard = waiting().tokens
    keys = S3Keys(SECRET)
    keys.take(lake.namespace.cluster, heard.s3, heard.buckets)
    assert {bucket.path for bucket in keys.buckets.values()} == {"/lake/raw"}


def test_what_cannot_be_a_bucket_is_refused(lake: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("ab", "Upper", "a_b", "-ab", "ab-", "a..b", "1.2.3.4", "x" * 64, ""):
        with pytest.raises(InvalidArgument, match="no name of a bucket"):
            name(lake, wrong, "/lake/raw")
    with pytest.raises(NotFound):
        name(lake, "raw-data", "/lake/none")
    with pytest.raises(NotADirectory):
        name(lake, "raw-data", "/lake/file")
    with pytest.raises(AlreadyExists, match="a bucket already"):
        name(lake, "lake", "/lake/raw")
    with pytest.raises(PermissionDenied):
        name(lake, "raw-data", "/lake/raw", READER)
    monkeypatch.setattr(sys.modules["monofs.metadata.ops.set_bucket"], "BUCKETS_MAX", 1)
    name(lake, "raw-data", "/lake/raw")
    with pytest.raises(Overloaded):
        name(lake, "other", "/lake/raw")
    assert named(lake) == {"raw-data": "/lake/raw"}


def test_no_bucket_is_named_before_every_master_knows_how(lake: House) -> None:
    lake.namespace.store.meta.level = S3_KEYS_LEVEL - 1
    with pytest.raises(NotReady, match="every master"):
        name(lake, "raw-data", "/lake/raw")
