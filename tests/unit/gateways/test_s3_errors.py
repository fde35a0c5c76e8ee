"""Errors: every failure of monofs has a code that S3's clients know, and says when trying again can help."""

from __future__ import annotations

import pytest

from monofs.gateways.s3 import errors
from monofs.gateways.s3.errors import CODES, S3Error, from_monofs
from monofs.model.errors import (
    BY_CODE,
    AlreadyExists,
    Busy,
    ConditionFailed,
    IsADirectory,
    MonofsError,
    NotADirectory,
    NotFound,
    NotReady,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
)

EVERY = sorted(BY_CODE.values(), key=lambda each: each.code)


def test_every_failure_of_monofs_is_in_the_table():
    assert set(errors._CALLED) == set(EVERY)
    assert set(errors._CALLED.values()) | set(errors._OF_BUCKETS.values()) | set(errors._OF_CHANGES.values()) <= set(
        CODES
    )


@pytest.mark.parametrize("kind", [each for each in EVERY if each.retry])
def test_what_is_worth_another_try_is_answered_so_that_clients_try_again(kind):
    assert from_monofs(kind("later")).status in (500, 503)


@pytest.mark.parametrize(
    ("error", "context", "code"),
    [
        (NotFound("x"), {}, "NoSuchKey"),
        (NotFound("x"), {"bucket": True}, "NoSuchBucket"),
        (NotADirectory("x"), {}, "NoSuchKey"),
        (NotADirectory("x"), {"changing": True}, "InvalidArgument"),
        (IsADirectory("x"), {"changing": True}, "InvalidArgument"),
        (AlreadyExists("x"), {"changing": True}, "PreconditionFailed"),
        (AlreadyExists("x"), {"bucket": True}, "BucketAlreadyOwnedByYou"),
        (ConditionFailed("x"), {}, "PreconditionFailed"),
        (PermissionDenied("x"), {}, "AccessDenied"),
        (Overloaded("x"), {}, "SlowDown"),
        (Busy("x"), {}, "SlowDown"),
        (NotReady("x"), {}, "SlowDown"),
        (OutcomeUnknown("x"), {}, "InternalError"),
        (MonofsError("x"), {}, "InternalError"),
    ],
)
def test_a_failure_is_called_by_what_it_means_for_the_bucket_or_key(error, context, code):
    assert from_monofs(error, **context).code == code


def test_a_missing_key_tells_nothing_of_the_tree_and_other_failures_their_sentence():
    assert "secret" not in str(from_monofs(NotFound("/secret/path is not there")))
    denied = from_monofs(PermissionDenied("alice may not read /lake"))
    assert "alice may not read /lake" in denied.message
    assert denied.elements["MonofsCode"] == 3006


def test_every_code_has_a_status_and_a_sentence():
    for code, (status, message) in CODES.items():
        assert 300 <= status < 600
        assert message.endswith(".")
        assert str(S3Error(code)) == f"{code}: {message}"
