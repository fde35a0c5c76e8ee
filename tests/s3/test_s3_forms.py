"""PostObject: files that browsers upload by HTML forms, signed in version 4 and as boto3 does unless told otherwise, in version 2."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest
from s3_endpoints import Endpoint, path_of
from s3_endpoints import post_form as post

Fields = dict[str, str]


@pytest.fixture(scope="module", params=["s3v4", "s3"])
def signer(request: pytest.FixtureRequest, endpoint: Endpoint) -> Iterator[Any]:
    client = endpoint.make_client(signature_version=request.param)
    yield client
    client.close()


def signed(
    signer: Any, bucket: str, key: str, fields: Fields | None = None, conditions: list[Any] | None = None, **more: Any
) -> Fields:
    """The fields of a form that boto3 signs."""
    made = signer.generate_presigned_post(
        bucket, key, Fields=dict(fields or {}), Conditions=conditions, ExpiresIn=600, **more
    )
    return dict(made["fields"])


def signed_by_hand(endpoint: Endpoint, document: Any, **fields: str) -> Fields:
    """A form with any policy, signed in version 2."""
    policy = base64.b64encode(json.dumps(document).encode())
    signature = base64.b64encode(hmac.digest(endpoint.secret_key.encode(), policy, "sha1")).decode()
    return {**fields, "AWSAccessKeyId": endpoint.access_key, "signature": signature, "policy": policy.decode()}


def test_a_file_is_uploaded_by_who_has_no_key(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    answer = post(endpoint, bucket, signed(signer, bucket, key), b"from a form")
    assert (answer.status, answer.body) == (204, b"")
    found = endpoint.raw("GET", path_of(bucket, key))
    assert (found.body, found.headers["content-type"]) == (b"from a form", "binary/octet-stream")


def test_the_answer_tells_the_etag(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    answer = post(endpoint, bucket, signed(signer, bucket, key))
    assert answer.headers["etag"] == endpoint.raw("HEAD", path_of(bucket, key)).headers["etag"]


def test_a_large_file_is_uploaded(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    data = bytes(range(256)) * (9 << 12)
    assert post(endpoint, bucket, signed(signer, bucket, key), data).status == 204
    assert endpoint.raw("GET", path_of(bucket, key)).body == data


def test_what_fields_say_is_kept_with_the_file(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    fields = {
        "acl": "private", "Content-Type": "text/own", "Cache-Control": "no-store", "Content-Disposition": "inline", "x-amz-meta-made": "by a form",
    }  # fmt: skip
    form = signed(signer, bucket, key, fields, [{name: value} for name, value in fields.items()])
    assert post(endpoint, bucket, form).status == 204
    headers = endpoint.raw("GET", path_of(bucket, key)).headers
    told = {name: headers[name] for name in ("content-type", "cache-control", "content-disposition", "x-amz-meta-made")}
    assert told == {
        "content-type": "text/own", "cache-control": "no-store", "content-disposition": "inline", "x-amz-meta-made": "by a form",
    }  # fmt: skip


def test_the_name_of_the_file_becomes_part_of_its_key(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    form = signed(signer, bucket, f"{key}/${{filename}}")
    assert post(endpoint, bucket, form, filename="a b ü.txt").status == 204
    assert endpoint.raw("GET", path_of(bucket, f"{key}/a b ü.txt")).body == b"sent"


def test_the_answer_is_as_the_form_asks(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    for asked, status in (("200", 200), ("201", 201), ("204", 204), ("404", 204)):
        fields = {"success_action_status": asked}
        answer = post(endpoint, bucket, signed(signer, bucket, key, fields, [fields]))
        assert answer.status == status
        if status == 201:
            assert (answer.text("Bucket"), answer.text("Key")) == (bucket, key)
            etag = endpoint.raw("HEAD", path_of(bucket, key)).headers["etag"].strip('"')
            assert (answer.text("ETag") or "").strip('"') == etag
            assert (answer.text("Location") or "").endswith(key)


def test_the_browser_is_sent_on_where_the_form_asks(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    fields = {"success_action_redirect": "http://127.0.0.1:9/done"}
    answer = post(
        endpoint, bucket, signed(signer, bucket, key, fields, [["starts-with", "$success_action_redirect", ""]])
    )
    assert answer.status == 303
    etag = endpoint.raw("HEAD", path_of(bucket, key)).headers["etag"].strip('"')
    assert answer.headers["location"] == f"http://127.0.0.1:9/done?bucket={bucket}&key={key}&etag=%22{etag}%22"


def test_tags_are_kept(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    fields = {"tagging": "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"}
    assert post(endpoint, bucket, signed(signer, bucket, key, fields, [fields])).status == 204
    assert endpoint.client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"] == [{"Key": "a", "Value": "b"}]


# ---- what the policy does not allow ---------------------------------------------------------------------------------------------------


def test_nothing_is_uploaded_but_what_was_signed(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    form = signed(signer, bucket, key)
    for changed in (
        {**form, "key": f"{key}-other"},
        {**form, "x-amz-meta-more": "1"},
        {**form, "success_action_status": "201"},
    ):
        assert post(endpoint, bucket, changed).told == (403, "AccessDenied"), changed
    signature = "x-amz-signature" if "x-amz-signature" in form else "signature"
    for changed in (
        {**form, signature: form[signature][::-1]},
        {**form, "policy": form["policy"][:-8] + form["policy"][-8:].swapcase()},
    ):
        assert post(endpoint, bucket, changed).status in (400, 403)
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404
    assert post(endpoint, bucket, {**form, "x-ignore-this": "x"}).status == 204


def test_a_form_is_for_one_bucket(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    other = endpoint.make_bucket()
    assert post(endpoint, other, signed(signer, bucket, key)).told == (403, "AccessDenied")


def test_the_secret_of_a_form_is_looked_at(endpoint: Endpoint, bucket: str, key: str) -> None:
    for version in ("s3v4", "s3"):
        for changed, told in (
            ({"secret_key": "wrong"}, (403, "SignatureDoesNotMatch")),
            ({"access_key": "AKIANOBODY"}, (403, "InvalidAccessKeyId")),
        ):
            client = endpoint.make_client(signature_version=version, **changed)
            assert post(endpoint, bucket, signed(client, bucket, key)).told == told
            client.close()
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_the_length_of_the_file_is_within_bounds(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    form = signed(signer, bucket, key, conditions=[["content-length-range", 10, 20]])
    assert post(endpoint, bucket, form, b"x" * 9).told == (400, "EntityTooSmall")
    assert post(endpoint, bucket, form, b"x" * 21).told == (400, "EntityTooLarge")
    assert post(endpoint, bucket, form, b"x" * (3 << 20)).told == (400, "EntityTooLarge")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404
    assert post(endpoint, bucket, form, b"x" * 20).status == 204


@pytest.mark.parametrize(
    ("expiration", "conditions", "status"),
    [
        ("2099-01-01T00:00:00Z", [{}], 400),
        ("2099-01-01T00:00:00Z", None, 400),
        ("2099-01-01T00:00:00Z", [["content-length-range", 0]], 400),
        ("2099-01-01T00:00:00Z", [["content-length-range", -1, 0]], 400),
        (None, [], 400),
        ("tomorrow", [], 400),
        ("2020-01-01T00:00:00Z", [], 403),
        ("2099-01-01T00:00:00Z", [["starts-with", "$x-amz-meta-foo", "bar"]], 403),
        ("2099-01-01T00:00:00Z", [["eq", "$key", "other"]], 403),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_policy_that_is_none_or_does_not_allow_it_is_refused(
    endpoint: Endpoint, bucket: str, key: str, expiration: str | None, conditions: list[Any] | None, status: int
) -> None:
    document: dict[str, Any] = {} if expiration is None else {"expiration": expiration}
    if conditions is not None:
        document["conditions"] = [{"bucket": bucket}, ["starts-with", "$key", ""], *conditions]
    assert post(endpoint, bucket, signed_by_hand(endpoint, document, key=key)).status == status
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_names_of_fields_and_operators_are_so_in_any_case(endpoint: Endpoint, bucket: str, key: str) -> None:
    conditions = [{"bUcKeT": bucket}, ["StArTs-WiTh", "$KeY", key], {"AcL": "private"}]
    form = signed_by_hand(
        endpoint, {"expiration": "2099-01-01T00:00:00Z", "conditions": conditions}, kEy=key, aCl="private"
    )
    form["pOLICy"] = form.pop("policy")
    assert post(endpoint, bucket, form).status == 204


def test_a_bucket_has_to_be_named_by_the_policy(endpoint: Endpoint, bucket: str, key: str) -> None:
    document = {"expiration": "2099-01-01T00:00:00Z", "conditions": [["starts-with", "$key", ""]]}
    assert post(endpoint, bucket, signed_by_hand(endpoint, document, key=key)).told == (403, "AccessDenied")


# ---- what is no form ------------------------------------------------------------------------------------------------------------------


def test_a_form_that_lacks_something_is_refused(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    form = signed(signer, bucket, key)
    assert post(endpoint, bucket, {name: value for name, value in form.items() if name != "key"}).told == (
        400,
        "InvalidArgument",
    )
    signature = "x-amz-signature" if "x-amz-signature" in form else "signature"
    assert post(endpoint, bucket, {name: value for name, value in form.items() if name != signature}).status in (
        400,
        403,
    )
    assert post(endpoint, bucket, form, **{"Content-Type": "multipart/form-data"}).status == 400


def test_a_form_without_a_file_is_refused(endpoint: Endpoint, signer: Any, bucket: str, key: str) -> None:
    assert post(endpoint, bucket, signed(signer, bucket, key), None).told == (
        400,
        "IncorrectNumberOfFilesInPostRequest",
    )
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_nobody_uploads_without_a_policy(endpoint: Endpoint, bucket: str, key: str) -> None:
    assert post(endpoint, bucket, {"key": key}).told == (403, "AccessDenied")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_a_bucket_that_is_not_there_is_told_to_who_signed(endpoint: Endpoint, signer: Any, key: str) -> None:
    missing = endpoint.new_name("missing")
    assert post(endpoint, missing, signed(signer, missing, key)).told == (404, "NoSuchBucket")
