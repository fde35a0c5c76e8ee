"""Sessions: who is let in, what ends them, and what is bounded."""

from __future__ import annotations

import pytest

from monofs.model.errors import InvalidArgument, NoMaster, Overloaded, Unauthenticated
from monofs.model.principal import Right
from monofs.model.token import Token, encode_token, format_token, token_secret
from monofs.web import viewers as module
from monofs.web.viewers import IDLE_S, RECHECK_S, TRIES, TRIES_S, Viewers

SECRET = bytes(32)


def token_text(name="ann", rights=Right.READ, expires_s=0, number=1):
    body = encode_token(Token(number, name, int(rights), expires_s, b"c" * 16, bytes(16)))
    return format_token(body, token_secret(SECRET, body))


class Cluster:
    """What a session holds of the cluster: whether its token is honoured."""

    def __init__(self):
        self.removed = False
        self.is_silent = False
        self.pings = 0
        self.closed = 0

    def connect(self, _token):
        return self

    def ping(self):
        self.pings += 1
        if self.is_silent:
            raise NoMaster("nobody answers")
        if self.removed:
            raise Unauthenticated("the token was removed")

    def close(self):
        self.closed += 1


class House:
    def __init__(self, *, is_open=False):
        self.now_s, self.epoch_s = 1000.0, 5_000_000
        self.cluster, self.ended = Cluster(), []
        self.viewers = Viewers(
            self.cluster.connect,
            is_open=is_open,
            clock=lambda: self.now_s,
            now=lambda: self.epoch_s,
            on_end=self.ended.append,
        )

    def cookie(self, viewer, peer="10.0.0.1"):
        return self.viewers.of_cookie(viewer.id.encode(), peer)


@pytest.mark.parametrize("peer", ["10.0.0.1", "fe80::1", "", "localhost", "::ffff:10.0.0.1"])
def test_only_addresses_of_this_machine_come_without_a_token(peer):
    assert House(is_open=True).viewers.needs_token(peer)
    assert not House(is_open=True).viewers.needs_token("127.0.0.1")
    assert not House(is_open=True).viewers.needs_token("::1")
    assert House(is_open=False).viewers.needs_token("127.0.0.1")


def test_a_session_without_a_token_holds_on_this_machine_only():
    house = House(is_open=True)
    viewer = house.viewers.begin_local("127.0.0.1")
    assert house.cookie(viewer, "127.0.0.1") is viewer
    assert house.cookie(viewer, "10.0.0.1") is None


def test_a_session_holds_what_its_token_gives_and_its_secrets_are_its_own():
    house = House()
    reader = house.viewers.sign_in(token_text(rights=Right.READ))
    admin = house.viewers.sign_in(token_text("root", Right.READ | Right.WRITE | Right.ADMIN))
    assert (reader.is_admin, reader.may_write, admin.is_admin, admin.may_write) == (False, False, True, True)
    assert len({reader.id, admin.id, reader.csrf, admin.csrf, reader.key, admin.key}) == 6
    assert admin.accepts(admin.csrf.encode())
    assert not admin.accepts(reader.csrf.encode())
    assert not admin.accepts(None)
    assert not admin.accepts(b"")


@pytest.mark.parametrize("text", ["", "x", "mft1.a.b", "mft1..", "mft1." + "A" * 5000, "\x00", "mft2.x.y"])
def test_what_is_no_token_is_refused_without_a_word_of_it(text):
    with pytest.raises((InvalidArgument, Unauthenticated)) as caught:
        House().viewers.sign_in(text)
    assert len(text) < 3 or text not in caught.value.message


def test_an_idle_session_ends_and_one_that_is_used_does_not():
    house = House()
    viewer = house.viewers.sign_in(token_text())
    for _ in range(3):
        house.now_s += IDLE_S - 1
        assert house.cookie(viewer) is viewer
    house.now_s += IDLE_S + 1
    assert house.cookie(viewer) is None
    house.viewers.purge()
    assert house.cluster.closed == 1
    assert house.ended == [viewer]


def test_a_session_ends_the_second_its_token_does():
    house = House()
    viewer = house.viewers.sign_in(token_text(expires_s=house.epoch_s + 10))
    house.epoch_s += 9
    house.viewers.check(viewer)
    assert house.cookie(viewer) is viewer
    house.epoch_s += 1
    assert house.cookie(viewer) is None
    with pytest.raises(Unauthenticated):
        house.viewers.check(viewer)
    assert house.ended == [viewer]


def test_a_removed_token_ends_its_session_within_the_bound_and_its_scripts():
    house = House()
    viewer, script = house.viewers.sign_in(token_text()), house.viewers.of_script(token_text("bob"))
    house.cluster.removed = True
    house.viewers.check(viewer)
    house.now_s += RECHECK_S + 0.1
    for each in (viewer, script):
        with pytest.raises(Unauthenticated):
            house.viewers.check(each)
    assert house.cookie(viewer) is None
    assert house.ended == [viewer, script]
    with pytest.raises(Unauthenticated):
        house.viewers.of_script(token_text("bob"))


def test_a_master_that_is_silent_ends_no_session():
    house = House()
    viewer = house.viewers.sign_in(token_text())
    house.cluster.is_silent = True
    house.now_s += RECHECK_S + 1
    house.viewers.check(viewer)
    assert house.cookie(viewer) is viewer
    house.cluster.is_silent, house.cluster.removed = False, True
    with pytest.raises(Unauthenticated):
        house.viewers.check(viewer)


def test_the_master_is_not_asked_for_every_request():
    house = House()
    viewer = house.viewers.sign_in(token_text())
    for _ in range(100):
        house.viewers.check(viewer)
    assert house.cluster.pings == 1


def test_signing_out_ends_it_at_once_and_is_told():
    house = House()
    viewer = house.viewers.sign_in(token_text())
    house.viewers.sign_out(viewer)
    house.viewers.sign_out(viewer)
    assert house.cookie(viewer) is None
    assert house.ended == [viewer]
    assert house.cluster.closed == 1


def test_sign_ins_of_one_address_are_bounded_in_time():
    house = House()
    for _ in range(TRIES):
        house.viewers.check_rate("10.0.0.1")
    with pytest.raises(Overloaded):
        house.viewers.check_rate("10.0.0.1")
    house.viewers.check_rate("10.0.0.2")
    house.now_s += TRIES_S
    house.viewers.check_rate("10.0.0.1")


def test_tokens_sent_with_requests_are_bounded_too_but_one_that_holds_is_free():
    house = House()
    for number in range(3 * TRIES):
        house.viewers.of_script(token_text(number=number + 1), "10.0.0.1")
    house.cluster.removed = True
    for number in range(TRIES):
        with pytest.raises(Unauthenticated):
            house.viewers.of_script(token_text("eve", number=number + 1), "10.0.0.1")
    with pytest.raises(Overloaded):
        house.viewers.of_script(token_text("eve", number=99), "10.0.0.1")
    house.viewers.of_script(token_text(number=1), "10.0.0.1")


def test_sessions_are_bounded_and_the_one_idle_longest_goes(monkeypatch):
    monkeypatch.setattr(module, "SESSIONS_MAX", 3)
    house = House()
    viewers = [house.viewers.sign_in(token_text(number=number)) for number in range(1, 4)]
    assert house.cookie(viewers[0]) is viewers[0]
    house.viewers.sign_in(token_text(number=4))
    assert house.ended == [viewers[1]]
    assert house.cookie(viewers[1]) is None
    assert house.cookie(viewers[0]) is viewers[0]
    for number in range(10, 20):
        house.viewers.of_script(token_text(number=number))
    assert len(house.viewers.all()) == 6


def test_addresses_that_tried_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "ADDRESSES_MAX", 100)
    house = House()
    for number in range(1000):
        house.viewers.check_rate(f"10.0.{number // 256}.{number % 256}")
    assert len(house.viewers._tries) == 100
