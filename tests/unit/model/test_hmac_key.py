"""HMAC keys that are kept, against the standard library's HMAC."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from monofs.model.hmac_key import HmacKey


@given(st.binary(max_size=200), st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_a_kept_key_authenticates_each_message_as_hmac_does(key: bytes, messages: list[bytes]):
    kept = HmacKey(key)
    for message in messages:
        assert kept.digest(message) == hmac.digest(key, message, "sha256")


def test_a_kept_key_gives_the_digest_of_rfc_4231():
    assert HmacKey(b"Jefe").digest(b"what do ya want for nothing?").hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
