"""Retries apply once; clients are known while they hold an answer; nothing of it grows without bound."""

from __future__ import annotations

from typing import Any

import pytest
from metadata_home import Home, refused

from monofs.metadata import sessions
from monofs.metadata.entries import AddMount, Create, Delete, ExpireClients, Free, MakeDirectory
from monofs.metadata.sessions import ANSWERS_PER_CLIENT_MAX, decode_result, encode_result
from monofs.model.errors import AlreadyExists, InvalidArgument, NotFound, Overloaded, SessionExpired
from monofs.model.ids import MountId
from monofs.model.mount import Mount

ME = b"client-of-16-byt"


def create(home: Home, path: str, sequence: int, lowest: int = 0, client: bytes = ME) -> Any:
    return home.apply(Create(home.stamp(client, sequence, lowest), path, 0o644, 0, 0))


def test_a_retry_gets_the_first_answer_and_changes_nothing(home: Home) -> None:
    first = create(home, "/f", 1)
    counts = home.namespace.counts()
    assert create(home, "/f", 1) == first
    assert create(home, "/other", 1) == first
    assert not home.exists("/other")
    assert {**home.namespace.counts(), "memtable": 0} == {**counts, "memtable": 0}


def test_a_refusal_is_an_answer_too(home: Home) -> None:
    first = home.apply(Delete(home.stamp(ME, 1), "/none"))
    assert refused(first, NotFound)
    home.create("/none")
    again = home.apply(Delete(home.stamp(ME, 1), "/none"))
    assert refused(again, NotFound)
    assert (again.message, again.detail) == (first.message, first.detail)
    assert home.exists("/none")


def test_answers_survive_restart_and_crash(home: Home) -> None:
    first = create(home, "/f", 1)
    refusal = create(home, "/f", 2)
    home.flush()
    mount = home.apply(AddMount(home.stamp(ME, 3), "/m", "file:///x", {"a": "b"}, b"s", False, True, None))
    home.lose_memory()
    home.open()
    assert create(home, "/f", 1) == first
    assert refused(create(home, "/f", 2), type(refusal))
    assert home.apply(AddMount(home.stamp(ME, 3), "/m", "", {}, b"", False, False)) == mount


def test_answers_received_are_trimmed_and_their_requests_never_run_again(home: Home) -> None:
    for sequence in range(1, 6):
        create(home, f"/{sequence}", sequence, lowest=sequence - 1)
    assert home.namespace.counts()["answers"] == 2
    assert refused(create(home, "/again", 2), SessionExpired)
    assert not home.exists("/again")
    assert refused(create(home, "/4", 6, lowest=6), AlreadyExists)
    assert home.namespace.counts()["answers"] == 1


def test_an_unknown_client_begins_with_its_first_request(home: Home) -> None:
    assert refused(create(home, "/f", 2), SessionExpired)
    assert not home.exists("/f")
    assert home.namespace.clients() == {}
    create(home, "/f", 1)
    assert home.namespace.clients() == {ME: home.clock_ns}


def test_the_first_requests_of_a_client_may_arrive_in_any_order(home: Home) -> None:
    for sequence in (3, 1, 2):
        assert isinstance(create(home, f"/{sequence}", sequence, lowest=1), bytes)
    assert create(home, "/other", 2, lowest=1) == create(home, "/2", 2, lowest=1)
    assert not home.exists("/other")
    assert home.namespace.counts()["answers"] == 3


def test_an_expired_client_is_told_so(home: Home) -> None:
    create(home, "/f", 1)
    create(home, "/g", 2)
    assert home.apply(ExpireClients(home.stamp(), [ME, b"unknown", ME])) is None
    assert home.namespace.clients() == {}
    assert home.namespace.counts()["answers"] == 0
    assert refused(create(home, "/h", 3), SessionExpired)
    assert refused(home.apply(ExpireClients(home.stamp(), [b"x"] * 1001)), InvalidArgument)


def test_a_client_may_expire_itself(home: Home) -> None:
    create(home, "/f", 1)
    home.apply(ExpireClients(home.stamp(ME, 2), [ME]))
    assert home.namespace.counts()["answers"] == 1
    home.lose_memory()
    home.open()
    assert home.namespace.counts()["answers"] == 1


def test_a_client_that_never_receives_is_held_back(home: Home) -> None:
    for sequence in range(1, ANSWERS_PER_CLIENT_MAX + 1):
        create(home, "/f", sequence)
    assert refused(create(home, "/g", ANSWERS_PER_CLIENT_MAX + 1), Overloaded)
    assert not home.exists("/g")
    create(home, "/g", ANSWERS_PER_CLIENT_MAX + 1, lowest=2)
    assert home.exists("/g")
    assert home.namespace.counts()["answers"] == ANSWERS_PER_CLIENT_MAX


def test_answers_of_all_clients_together_are_bounded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ANSWERS_MAX", 2)
    create(home, "/a", 1, client=b"a")
    create(home, "/b", 1, client=b"b")
    assert refused(create(home, "/c", 1, client=b"c"), Overloaded)
    assert refused(create(home, "/c", 2, client=b"b"), Overloaded)
    create(home, "/c", 2, lowest=2, client=b"b")
    assert home.exists("/c")


def test_the_longest_silent_clients_make_room_for_others_after_a_minute(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ANSWERS_MAX", 3)
    for client in (b"a", b"b", b"c"):
        create(home, f"/{client.decode()}", 1, client=client)
    create(home, "/a2", 2, lowest=2, client=b"a")
    assert refused(create(home, "/d", 1, client=b"d"), Overloaded), "all were heard within the minute"
    home.clock_ns += sessions.QUIET_NS
    create(home, "/d", 1, client=b"d")
    assert home.exists("/d")
    assert list(home.namespace.clients()) == [b"c", b"a", b"d"], "b was silent for longest"
    create(home, "/d2", 2, lowest=1, client=b"d")
    assert list(home.namespace.clients()) == [b"a", b"d"]
    assert refused(create(home, "/c2", 2, lowest=2, client=b"c"), SessionExpired)
    first = create(home, "/d2", 2, lowest=1, client=b"d")
    assert not isinstance(first, Exception), "the answer of who was heard of lately is held"
    crc = home.namespace.crc
    home.lose_memory()
    home.open()
    assert home.namespace.crc == crc
    assert home.namespace.counts()["answers"] == 3


def test_of_two_clients_heard_at_the_same_time_the_lesser_id_goes_on_every_replica(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ANSWERS_MAX", 3)
    for client in (b"z", b"m", b"q"):
        home.clock_ns -= 1000  # a clock that stands still
        create(home, f"/{client.decode()}", 1, client=client)
    home.clock_ns += sessions.QUIET_NS + 1
    create(home, "/live", 1, client=b"n1")
    live = set(home.namespace.clients())
    home.flush()
    home.lose_memory()
    home.open()
    create(home, "/restarted", 1, client=b"n2")
    assert live == {b"z", b"q", b"n1"}
    assert set(home.namespace.clients()) == {b"z", b"n1", b"n2"}


@pytest.mark.parametrize(("client", "sequence"), [(b"x" * 65, 1), (ME, 0), (ME, -1), (ME, 1 << 62)])
def test_request_ids_that_make_no_sense_are_refused(home: Home, client: bytes, sequence: int) -> None:
    assert refused(create(home, "/f", sequence, client=client), InvalidArgument)
    assert not home.exists("/f")


def test_requests_of_one_client_may_arrive_in_any_order_after_the_first(home: Home) -> None:
    create(home, "/1", 1)
    create(home, "/3", 3, lowest=2)
    create(home, "/2", 2, lowest=2)
    assert {name for name in ("1", "2", "3") if home.exists("/" + name)} == {"1", "2", "3"}


def test_a_lowest_beyond_the_request_itself_is_not_believed(home: Home) -> None:
    first = create(home, "/f", 1, lowest=100)
    assert create(home, "/f", 1, lowest=100) == first
    create(home, "/g", 2)
    assert home.exists("/g")


def test_requests_without_a_client_leave_no_answer(home: Home) -> None:
    home.apply(MakeDirectory(home.stamp(), "/a", 0o755, 0, 0, False, False))
    assert home.namespace.counts()["answers"] == 0


@pytest.mark.parametrize(
    "result",
    [
        None,
        7,
        b"raw",
        (1, 2, 3),
        Mount(id=MountId(1), path="/m", uri="s3://b", options={"a": "b"}, sealed=b"s", sync_interval_ms=-1000),
    ],
)
def test_every_kind_of_result_is_held_as_it_is(result: Any) -> None:
    assert decode_result(encode_result(1, 2, result)) == result


def test_ids_given_for_a_request_are_the_same_for_its_retry(home: Home) -> None:
    first = home.apply(Free(home.stamp(ME, 1), 2, [1]))
    assert home.apply(Free(home.stamp(ME, 1), 2, [1])) == first
    assert home.namespace.feed_bounds() == (1, 1)
