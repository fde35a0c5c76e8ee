"""What the policy of a form allows, and which documents are none."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from refusals import attempt

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.post_policy import Policy, read_policy

ENDS_S = 1893499200.0  # 2030-01-01T12:00:00Z


def read(conditions: Any = (), expiration: Any = "2030-01-01T12:00:00.000Z", **more: Any) -> Policy:
    return read_raw(json.dumps({"expiration": expiration, "conditions": conditions, **more}))


def read_raw(document: str) -> Policy:
    return read_policy(base64.b64encode(document.encode()).decode(), 1000)


def allows(conditions: list[Any], now_s: float = 0.0, **fields: str) -> bool:
    policy = read(conditions)
    refusal = attempt(policy.check, {name.replace("_", "-"): value for name, value in fields.items()}, now_s)
    assert refusal[1] in ("", "AccessDenied")
    return not refusal[1]


def test_a_field_is_what_its_conditions_say() -> None:
    assert allows([{"key": "a"}], key="a")
    assert not allows([{"key": "a"}], key="ab")
    assert allows([["eq", "$KEY", "a"]], key="a")
    assert allows([["Starts-With", "$key", "a/"]], key="a/b")
    assert not allows([["starts-with", "$key", "a/"]], key="b")
    assert allows([["starts-with", "$key", ""]], key="any")
    assert not allows([["starts-with", "$key", "a"], {"key": "b"}], key="a")
    assert allows([["starts-with", "$key", "$a"]], key="$ab")


def test_a_field_without_a_condition_is_refused_and_so_is_a_condition_without_its_field() -> None:
    assert not allows([{"key": "a"}], key="a", acl="private")
    assert not allows([{"key": "a"}, {"acl": "private"}], key="a")
    assert allows([{"key": "a"}, ["starts-with", "$acl", ""]], key="a")
    assert allows(
        [{"key": "a"}], key="a", x_ignore_this="x", policy="p", signature="s", awsaccesskeyid="k", x_amz_signature="s"
    )


def test_it_ends_when_it_says() -> None:
    assert allows([], ENDS_S - 1)
    assert not allows([], ENDS_S)
    for text in ("2030-01-01T12:00:00Z", "2030-01-01T12:00:00", "2030-01-01T13:00:00+01:00"):
        assert read(expiration=text).expires_s == ENDS_S
    for text in ("2030-01-01 12:00:00+00:00", "2030-01-01", "20300101T120000Z"):
        with pytest.raises(S3Error, match="its expiration"):
            read(expiration=text)


def test_lengths_are_within_all_that_is_said() -> None:
    def bounds(*conditions: Any) -> tuple[int, int]:
        policy = read(list(conditions))
        return policy.least, policy.most

    assert bounds() == (0, 1000)
    assert bounds(["content-length-range", 5, 10]) == bounds(["Content-Length-Range", "5", "10"]) == (5, 10)
    assert bounds(["content-length-range", 5, 5000]) == (5, 1000)
    assert bounds(["content-length-range", 1, 9], ["content-length-range", 5, 20]) == (5, 9)


def test_a_dollar_may_be_escaped_as_the_documentation_has_it() -> None:
    text = r'{"expiration": "2030-01-01T12:00:00Z", "conditions": [["eq", "$key", "\$a\\\\b"]]}'
    read_raw(text).check({"key": "$a\\\\b"}, 0.0)


@pytest.mark.parametrize(
    "document",
    [
        "", "nonsense", "[]", "{}", "null", '{"conditions": []}', '{"expiration": "2030-01-01T12:00:00Z"}',
        '{"expiration": "tomorrow", "conditions": []}', '{"expiration": 5, "conditions": []}', '{"EXPIRATION": "2030-01-01T12:00:00Z", "conditions": []}',
        '{"expiration": "2030-01-01T12:00:00Z", "CONDITIONS": []}', '{"expiration": "2030-01-01T12:00:00Z", "conditions": {}}', "[" * 5000,
    ],
)  # fmt: skip
def test_a_document_that_is_no_policy_is_refused(document: str) -> None:
    with pytest.raises(S3Error, match="InvalidPolicyDocument"):
        read_raw(document)


@pytest.mark.parametrize(
    "condition",
    [
        {}, {"a": "b", "c": "d"}, {"a": 5}, [], ["eq"], ["eq", "$a"], ["eq", "a", "b"], ["ends-with", "$a", "b"], ["eq", "$a", 5], "x", None, 7,
        ["content-length-range"], ["content-length-range", 0], ["content-length-range", -1, 0], ["content-length-range", 0, "x"], ["content-length-range", 0.5, 1],
    ],
)  # fmt: skip
def test_a_condition_that_is_none_is_refused(condition: Any) -> None:
    with pytest.raises(S3Error, match="InvalidPolicyDocument"):
        read([condition])


def test_what_is_no_base64_is_refused() -> None:
    for text in ("*", "é", "abc"):
        with pytest.raises(S3Error, match="InvalidPolicyDocument"):
            read_policy(text, 10)
