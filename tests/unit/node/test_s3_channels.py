"""The connections a node keeps for those it acts for: bounded, and none is closed while a request uses it."""

from __future__ import annotations

from functools import cache

import pytest
from twisted.internet import reactor

from monofs.gateways.s3.asking import Ask
from monofs.model.principal import Principal
from monofs.node import s3
from monofs.node.s3 import Channels
from monofs.rpc.direct import DirectClient
from monofs.rpc.s3_keys import S3Key
from monofs.rpc.service import Service

BOUND = 2


class OneWorker:
    """As much of a worker as names its channel."""

    def __init__(self) -> None:
        self._service = Service("worker", reactor)

    def service(self) -> Service:
        return self._service


@pytest.fixture
def channels(monkeypatch: pytest.MonkeyPatch) -> Channels:
    monkeypatch.setattr(s3, "CHANNELS_MAX", BOUND)
    master = Service("master", reactor)

    def dial_for(principal: Principal) -> DirectClient:
        return DirectClient(master, principal)

    return Channels(OneWorker(), None, lambda _: None, dial_for)  # type: ignore[arg-type, return-value]


@cache
def key(number: int) -> S3Key:
    return S3Key(f"K{number}", "secret", Principal(f"user{number}"), (), 0)


def is_open(ask: Ask) -> bool:
    channel = getattr(ask, "__self__", None)
    assert isinstance(channel, DirectClient)
    return not channel.closed


def test_a_channel_in_use_stays_open_however_many_keys_come(channels: Channels) -> None:
    used = channels.hold(key(0))
    for number in range(1, 10):
        channels.hold(key(number))
        channels.release(key(number))
    assert is_open(used)
    assert channels.hold(key(0)) == used


def test_one_that_two_requests_use_is_in_use_until_the_second_ends(channels: Channels) -> None:
    used = channels.hold(key(0))
    channels.hold(key(0))
    channels.release(key(0))
    for number in range(1, 10):
        channels.hold(key(number))
        channels.release(key(number))
    assert is_open(used)


def test_of_those_nobody_uses_the_one_used_longest_ago_is_closed(channels: Channels) -> None:
    opened = []
    for number in range(BOUND + 1):
        opened.append(channels.hold(key(number)))
        channels.release(key(number))
    assert [is_open(each) for each in opened] == [False, True, True]
    assert channels.hold(key(2)) == opened[2]


def test_all_in_use_beyond_the_bound_are_closed_as_they_are_let_go(channels: Channels) -> None:
    opened = [channels.hold(key(number)) for number in range(5)]
    assert all(map(is_open, opened))
    for number in range(5):
        channels.release(key(number))
    assert sum(map(is_open, opened)) == BOUND
