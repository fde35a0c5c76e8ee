"""Who may read: only holders of a token of this cluster, signed by a key valid now, within its life by the master's clock."""

from __future__ import annotations

import msgspec
import pytest

from monofs.model.capability import GRACE_S, LIFE_S, Capability, Rights, peek_capability, seal_capability
from monofs.model.errors import CapabilityExpired, CapabilityInvalid, NotReady
from monofs.model.ids import ContentId, MountId
from monofs.worker.gate import REMEMBERED_TOKENS, SILENCE_S, Gate

CLUSTER, KEY, OTHER_KEY = b"c" * 16, b"k" * 32, b"o" * 32


class Clock:
    """Seconds that only tests move."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    gate = Gate(wall=clock, monotonic=clock)
    gate.set_keys({1: KEY}, CLUSTER)
    gate.hear(int(clock.now * 1e9))
    return gate


def token(
    clock: Clock, *, key_id: int = 1, key: bytes = KEY, cluster: bytes = CLUSTER, rights: int = Rights.READ
) -> bytes:
    now = int(clock.now)
    return seal_capability(
        Capability(key_id, cluster, ContentId(5), 100, 26, MountId(1), "a", "e:1", 0, rights, now, now + LIFE_S), key
    )


def test_a_valid_token_opens_again_and_again(gate: Gate, clock: Clock) -> None:
    sealed = token(clock)
    assert gate.open(sealed) is gate.open(sealed)


def test_a_forged_token_is_refused(gate: Gate, clock: Clock) -> None:
    with pytest.raises(CapabilityInvalid):
        gate.open(token(clock, key=OTHER_KEY))


def test_a_token_changed_in_any_byte_is_refused(gate: Gate, clock: Clock) -> None:
    sealed = token(clock)
    gate.open(sealed)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(CapabilityInvalid):
            gate.open(bytes(changed))


def test_a_token_of_another_cluster_is_refused(gate: Gate, clock: Clock) -> None:
    with pytest.raises(CapabilityInvalid, match="another cluster"):
        gate.open(token(clock, cluster=b"d" * 16))


def test_a_token_without_the_right_to_read_is_refused(gate: Gate, clock: Clock) -> None:
    with pytest.raises(CapabilityInvalid, match="reading"):
        gate.open(token(clock, rights=Rights.WRITE))


def test_a_token_ends_with_its_life_even_if_it_was_verified_before(gate: Gate, clock: Clock) -> None:
    sealed = token(clock)
    gate.open(sealed)
    clock.now += LIFE_S + 1
    gate.hear(int(clock.now * 1e9))
    with pytest.raises(CapabilityExpired):
        gate.open(sealed)


def test_time_is_the_masters(gate: Gate, clock: Clock) -> None:
    sealed = token(clock)
    gate.hear(int((clock.now + LIFE_S + 1) * 1e9))
    with pytest.raises(CapabilityExpired):
        gate.open(sealed)


def test_before_the_first_registration_nothing_opens() -> None:
    clock = Clock()
    with pytest.raises(NotReady):
        Gate(wall=clock, monotonic=clock).open(token(clock))


def test_a_key_taken_away_closes_its_tokens_at_once(gate: Gate, clock: Clock) -> None:
    sealed = token(clock)
    gate.open(sealed)
    gate.set_keys({2: OTHER_KEY}, CLUSTER)
    with pytest.raises(CapabilityInvalid):
        gate.open(sealed)


def test_two_keys_are_valid_at_a_time(gate: Gate, clock: Clock) -> None:
    gate.set_keys({1: KEY, 2: OTHER_KEY}, CLUSTER)
    gate.open(token(clock))
    gate.open(token(clock, key_id=2, key=OTHER_KEY))


def test_while_no_master_is_heard_of_old_tokens_open_cached_content_only(gate: Gate, clock: Clock) -> None:
    sealed = token(clock)
    assert not gate.is_stale(gate.open(sealed))
    clock.now += max(LIFE_S, SILENCE_S) + 1
    assert gate.is_stale(gate.open(sealed)), "it opens, but must not fetch"
    clock.now += GRACE_S
    with pytest.raises(CapabilityExpired):
        gate.open(sealed)


def test_a_master_heard_again_ends_the_grace(gate: Gate, clock: Clock) -> None:
    sealed = token(clock)
    clock.now += LIFE_S + SILENCE_S
    gate.open(sealed)
    gate.hear(int(clock.now * 1e9))
    with pytest.raises(CapabilityExpired):
        gate.open(sealed)


def test_remembered_tokens_are_bounded(gate: Gate, clock: Clock) -> None:
    for number in range(REMEMBERED_TOKENS + 100):
        now = int(clock.now)
        gate.open(
            seal_capability(
                Capability(1, CLUSTER, ContentId(number), 1, 26, MountId(1), "a", "", 0, Rights.READ, now, now + 9), KEY
            )
        )
    assert gate.remembered <= REMEMBERED_TOKENS


def test_what_the_master_of_the_process_grants_needs_no_seal_but_its_cluster_and_a_key_that_is_valid(
    clock: Clock,
) -> None:
    shown: list[Capability] = []
    gate = Gate(wall=clock, monotonic=clock, on_shown=shown.append)
    granted = peek_capability(token(clock))
    with pytest.raises(NotReady):
        gate.admit(granted)
    gate.set_keys({1: KEY}, CLUSTER)
    gate.admit(granted)
    gate.admit(granted)
    later = msgspec.structs.replace(granted, issued_s=granted.issued_s + 1)
    regrouped = msgspec.structs.replace(later, group=2)
    for each in (later, regrouped):
        gate.admit(each)
    assert shown == [granted, later, regrouped], "once a second, and whenever its group is another"
    for wrong in (msgspec.structs.replace(granted, cluster=b"d" * 16), msgspec.structs.replace(granted, key_id=2)):
        with pytest.raises(CapabilityInvalid):
            gate.admit(wrong)
    for content in range(REMEMBERED_TOKENS + 10):
        gate.admit(msgspec.structs.replace(granted, content=ContentId(content)))
    assert gate.remembered <= REMEMBERED_TOKENS


def test_a_closed_gate_opens_nothing_of_what_it_knew(gate: Gate, clock: Clock) -> None:
    sealed = token(clock)
    granted = gate.open(sealed)
    gate.close()
    with pytest.raises(NotReady, match="stopping"):
        gate.open(sealed)
    with pytest.raises(NotReady, match="stopping"):
        gate.admit(granted)
