"""Keys and secrets: sealed, bound to their place, opened only with the right secret."""

from __future__ import annotations

import msgspec
import pytest

from monofs.master.secrets import Vault, WrappedKeys, make_keys, unwrap_keys
from monofs.model.errors import HomeUnusable
from monofs.model.ids import MountId
from monofs.model.mount import Mount

CLUSTER = b"c" * 16


def test_keys_open_with_the_secret_they_were_wrapped_with() -> None:
    wrapped = make_keys(b"secret", CLUSTER)
    keys = unwrap_keys(b"secret", CLUSTER, wrapped)
    assert len(keys.data) == len(keys.capability[1]) == 32
    assert keys.data != keys.capability[1]
    assert keys.data not in wrapped.data


@pytest.mark.parametrize("damage", ["secret", "cluster", "bits", "swapped", "short"])
def test_keys_do_not_open_otherwise_and_the_message_tells_what_to_do(damage: str) -> None:
    wrapped = make_keys(b"secret", CLUSTER)
    secret, cluster = b"secret", CLUSTER
    if damage == "secret":
        secret = b"another"
    elif damage == "cluster":
        cluster = b"d" * 16
    elif damage == "bits":
        wrapped = WrappedKeys(wrapped.data[:-1] + bytes([wrapped.data[-1] ^ 1]), wrapped.capability)
    elif damage == "swapped":
        wrapped = WrappedKeys(wrapped.capability, wrapped.data)
    else:
        wrapped = WrappedKeys(b"", b"")
    with pytest.raises(HomeUnusable, match="cluster secret is not the one"):
        unwrap_keys(secret, cluster, wrapped)


def test_keys_are_not_in_their_repr() -> None:
    keys = unwrap_keys(b"secret", CLUSTER, make_keys(b"secret", CLUSTER))
    assert repr(keys) == "Keys()"


def test_a_mounts_secrets_are_sealed_and_bound_to_path_and_uri() -> None:
    vault = Vault(b"k" * 32)
    sealed = vault.seal("/lake", "s3://bucket", {"secret_key": "hunter2"})
    assert b"hunter2" not in sealed
    mount = Mount(MountId(1), "/lake", "s3://bucket", {}, sealed)
    assert vault.open(mount) == {"secret_key": "hunter2"}
    assert vault.open(msgspec.structs.replace(mount, sealed=b"")) == {}
    for moved in (
        msgspec.structs.replace(mount, path="/other"),
        msgspec.structs.replace(mount, uri="s3://evil"),
        msgspec.structs.replace(mount, sealed=sealed[:-1]),
        msgspec.structs.replace(mount, sealed=b"\x02" + sealed[1:]),
    ):
        with pytest.raises(HomeUnusable, match="set them again"):
            vault.open(moved)


def test_nothing_secret_seals_to_nothing() -> None:
    assert Vault(b"k" * 32).seal("/lake", "s3://bucket", {}) == b""


def test_what_earlier_releases_sealed_opens_for_ever() -> None:
    wrapped = WrappedKeys(
        bytes.fromhex(
            "01000102030405060708090a0be190d0acc50118c7f514f7d1affe47ca6acdce964d976a819c718cb111ca4d8b"
            "1bbd8589b3526a25d2293e80437715ae"
        ),
        bytes.fromhex(
            "01000102030405060708090a0be190d0acc50118c7f514f7d1affe47ca6acdce964d976a819c718cb111ca4d8b"
            "f2d7631cdd3fe62229403835cf13f1b2"
        ),
    )
    keys = unwrap_keys(b"the secret", CLUSTER, wrapped)
    assert keys.data == keys.capability[1] == bytes(range(32))
    sealed = bytes.fromhex(
        "01000102030405060708090a0beb77874b67a2e3011cf036f3c3ad7d368c8bc8565ec3e94bca7fe53e571677543dddfb0d"
    )
    mount = Mount(MountId(1), "/lake", "s3://bucket", {}, sealed)
    assert Vault(b"k" * 32).open(mount) == {"secret_key": "hunter2"}
