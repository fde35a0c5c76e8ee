"""Conditional GET, HEAD, PUT, DELETE, copies and completions: RFC 9110, section 13, and the User Guide, "Conditional requests"."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from time import time

import pytest
from s3_endpoints import Endpoint, path_of

OTHER = '"00000000000000000000000000000000"'
PAST, FUTURE = formatdate(time() - 86400, usegmt=True), formatdate(time() + 86400, usegmt=True)


@pytest.fixture
def etag(endpoint: Endpoint, bucket: str, key: str) -> str:
    """That of an object under the key, with quotes."""
    return endpoint.raw("PUT", path_of(bucket, key), body=b"data").headers["etag"]


# ---- reading --------------------------------------------------------------------------------------------------------------------

READS = [
    ({"if-match": "{etag}"}, 200),
    ({"if-match": "*"}, 200),
    ({"if-match": OTHER}, 412),
    ({"if-match": OTHER + ", {etag}"}, 200),
    ({"if-none-match": "{etag}"}, 304),
    ({"if-none-match": "*"}, 304),
    ({"if-none-match": OTHER}, 200),
    ({"if-none-match": OTHER + ", {etag}"}, 304),
    ({"if-none-match": "W/{etag}"}, 304),
    ({"if-modified-since": PAST}, 200),
    ({"if-modified-since": "{mtime}"}, 304),
    ({"if-unmodified-since": PAST}, 412),
    ({"if-unmodified-since": FUTURE}, 200),
    ({"if-unmodified-since": "{mtime}"}, 200),
    ({"if-match": "{etag}", "if-unmodified-since": PAST}, 200),
    ({"if-none-match": "{etag}", "if-modified-since": PAST}, 304),
    ({"if-none-match": OTHER, "if-modified-since": "{mtime}"}, 200),
    ({"if-match": OTHER, "if-none-match": "{etag}"}, 412),
    ({"if-modified-since": "nonsense"}, 200),
]


@pytest.mark.parametrize(("headers", "status"), READS, ids=range(len(READS)))
def test_a_conditional_read(
    endpoint: Endpoint, bucket: str, key: str, etag: str, headers: dict[str, str], status: int
) -> None:
    mtime = endpoint.raw("HEAD", path_of(bucket, key)).headers["last-modified"]
    asked = {name: value.replace("{etag}", etag).replace("{mtime}", mtime) for name, value in headers.items()}
    for method in ("GET", "HEAD"):
        answer = endpoint.raw(method, path_of(bucket, key), headers=asked)
        assert answer.status == status
        if status == 412 and method == "GET":
            assert answer.code == "PreconditionFailed"
        elif status != 412:
            assert answer.headers["etag"] == etag
        assert answer.body == b"" or status != 304


def test_a_condition_on_what_is_not_there_is_no_such_key(endpoint: Endpoint, bucket: str, key: str) -> None:
    for name in ("if-match", "if-none-match"):
        assert endpoint.raw("GET", path_of(bucket, key), headers={name: OTHER}).told == (404, "NoSuchKey")


# ---- writing --------------------------------------------------------------------------------------------------------------------


def test_if_none_match_writes_what_is_not_there_and_only_that(endpoint: Endpoint, bucket: str, key: str) -> None:
    target = path_of(bucket, key)
    assert endpoint.raw("PUT", target, headers={"if-none-match": "*"}, body=b"one").status == 200
    assert endpoint.raw("PUT", target, headers={"if-none-match": "*"}, body=b"two").told == (412, "PreconditionFailed")
    assert endpoint.raw("GET", target).body == b"one"
    endpoint.raw("DELETE", target)
    assert endpoint.raw("PUT", target, headers={"if-none-match": "*"}, body=b"three").status == 200


def test_if_match_replaces_what_was_named_and_only_that(endpoint: Endpoint, bucket: str, key: str, etag: str) -> None:
    target = path_of(bucket, key)
    assert endpoint.raw("PUT", target, headers={"if-match": OTHER}, body=b"x").told == (412, "PreconditionFailed")
    assert endpoint.raw("PUT", target, headers={"if-match": etag}, body=b"new").status == 200
    assert endpoint.raw("PUT", target, headers={"if-match": etag}, body=b"y").told == (412, "PreconditionFailed")
    assert endpoint.raw("GET", target).body == b"new"


def test_if_match_of_what_is_not_there_is_no_such_key(endpoint: Endpoint, bucket: str, key: str) -> None:
    answer = endpoint.raw("PUT", path_of(bucket, key), headers={"if-match": OTHER}, body=b"x")
    assert answer.told == (404, "NoSuchKey")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_a_condition_that_is_none_of_writes_is_not_implemented(
    endpoint: Endpoint, bucket: str, key: str, etag: str
) -> None:
    answer = endpoint.raw("PUT", path_of(bucket, key), headers={"if-none-match": etag}, body=b"x")
    assert answer.told == (501, "NotImplemented")


def test_of_a_hundred_racing_creations_exactly_one_wins(endpoint: Endpoint, bucket: str, key: str) -> None:
    ready = threading.Barrier(100)

    def race(number: int) -> int:
        ready.wait(30)
        while True:
            status = endpoint.raw(
                "PUT", path_of(bucket, key), headers={"if-none-match": "*"}, body=b"%d" % number
            ).status
            if status not in (409, 503):  # again: told so
                return status

    with ThreadPoolExecutor(100) as pool:
        statuses = list(pool.map(race, range(100)))
    assert Counter(statuses) == {200: 1, 412: 99}
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"%d" % statuses.index(200)


def test_of_racing_replacements_of_one_version_exactly_one_wins(
    endpoint: Endpoint, bucket: str, key: str, etag: str
) -> None:
    ready = threading.Barrier(20)

    def race(number: int) -> int:
        ready.wait(30)
        while True:
            status = endpoint.raw("PUT", path_of(bucket, key), headers={"if-match": etag}, body=b"%d" % number).status
            if status not in (409, 503):
                return status

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(race, range(20)))
    assert Counter(statuses) == {200: 1, 412: 19}
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"%d" % statuses.index(200)


# ---- deleting -------------------------------------------------------------------------------------------------------------------


def test_if_match_deletes_what_was_named_and_only_that(endpoint: Endpoint, bucket: str, key: str, etag: str) -> None:
    target = path_of(bucket, key)
    assert endpoint.raw("DELETE", target, headers={"if-match": OTHER}).told == (412, "PreconditionFailed")
    assert endpoint.raw("GET", target).status == 200
    assert endpoint.raw("DELETE", target, headers={"if-match": etag}).status == 204
    assert endpoint.raw("GET", target).status == 404


def test_if_match_any_deletes_what_is_there(endpoint: Endpoint, bucket: str, key: str, etag: str) -> None:
    assert endpoint.raw("DELETE", path_of(bucket, key), headers={"if-match": "*"}).status == 204
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


@pytest.mark.parametrize("how", ["one", "many"])
def test_a_deletion_of_one_version_never_takes_the_next_one(
    endpoint: Endpoint, bucket: str, key: str, etag: str, how: str
) -> None:
    """Whichever comes first: what is put is there in the end."""
    target = path_of(bucket, key)

    def delete() -> int | str:
        if how == "one":
            return endpoint.raw("DELETE", target, headers={"if-match": etag}).status
        doomed = {"Objects": [{"Key": key, "ETag": etag}]}
        errors = endpoint.client.delete_objects(Bucket=bucket, Delete=doomed).get("Errors")
        return errors[0]["Code"] if errors else 204

    def put(body: bytes) -> int:
        while (status := endpoint.raw("PUT", target, body=body).status) in (409, 503):
            pass
        return status

    with ThreadPoolExecutor(2) as pool:
        for number in range(15):
            assert put(b"data") == 200
            deleting, putting = pool.submit(delete), pool.submit(put, b"next %d" % number)
            assert putting.result() == 200
            assert deleting.result() in (204, 412, "PreconditionFailed", 409, 503, 404, "NoSuchKey", "SlowDown")
            assert endpoint.raw("GET", target).body == b"next %d" % number


def test_of_racing_deletions_of_one_version_each_is_told_the_truth(
    endpoint: Endpoint, bucket: str, key: str, etag: str
) -> None:
    target = path_of(bucket, key)
    ready = threading.Barrier(20)

    def race(_: int) -> int:
        ready.wait(30)
        while (status := endpoint.raw("DELETE", target, headers={"if-match": etag}).status) in (409, 503):
            pass
        return status

    with ThreadPoolExecutor(20) as pool:
        statuses = Counter(pool.map(race, range(20)))
    assert statuses == {204: 1, 404: 19}


def test_deletions_of_many_have_conditions_each(endpoint: Endpoint, bucket: str, key: str, etag: str) -> None:
    wrong, right = f"{key}-wrong", f"{key}-right"
    for name in (wrong, right):
        endpoint.raw("PUT", path_of(bucket, name), body=b"data")
    doomed = [{"Key": wrong, "ETag": OTHER}, {"Key": right, "ETag": etag}]
    found = endpoint.client.delete_objects(Bucket=bucket, Delete={"Objects": doomed})
    assert [each["Key"] for each in found["Deleted"]] == [right]
    assert [(each["Key"], each["Code"]) for each in found["Errors"]] == [(wrong, "PreconditionFailed")]


# ---- copying and completing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": "{etag}"}, 200),
        ({"if-match": OTHER}, 412),
        ({"if-none-match": "{etag}"}, 412),
        ({"if-none-match": OTHER}, 200),
        ({"if-modified-since": PAST}, 200),
        ({"if-modified-since": "{mtime}"}, 412),
        ({"if-unmodified-since": PAST}, 412),
        ({"if-unmodified-since": FUTURE}, 200),
        ({"if-match": "{etag}", "if-unmodified-since": PAST}, 200),
        ({"if-none-match": "{etag}", "if-modified-since": PAST}, 412),
    ],
    ids=range(10),
)
def test_a_copy_has_conditions_on_its_source(
    endpoint: Endpoint, bucket: str, key: str, etag: str, headers: dict[str, str], status: int
) -> None:
    mtime = endpoint.raw("HEAD", path_of(bucket, key)).headers["last-modified"]
    asked = {"x-amz-copy-source": f"{bucket}/{key}"}
    for name, value in headers.items():
        asked[f"x-amz-copy-source-{name}"] = value.replace("{etag}", etag).replace("{mtime}", mtime)
    answer = endpoint.raw("PUT", path_of(bucket, f"{key}-copy"), headers=asked)
    assert answer.told == (status, "PreconditionFailed" if status == 412 else "")
    assert endpoint.raw("HEAD", path_of(bucket, f"{key}-copy")).status == (200 if status == 200 else 404)


def test_a_copy_has_conditions_on_its_target(endpoint: Endpoint, bucket: str, key: str, etag: str) -> None:
    source = {"x-amz-copy-source": f"{bucket}/{key}"}
    target = path_of(bucket, f"{key}-copy")
    assert endpoint.raw("PUT", target, headers={**source, "if-match": etag}).told == (404, "NoSuchKey")
    assert endpoint.raw("PUT", target, headers={**source, "if-none-match": "*"}).status == 200
    assert endpoint.raw("PUT", target, headers={**source, "if-none-match": "*"}).told == (412, "PreconditionFailed")
    assert endpoint.raw("PUT", target, headers={**source, "if-match": OTHER}).told == (412, "PreconditionFailed")
    assert endpoint.raw("PUT", target, headers={**source, "if-match": etag}).status == 200


def test_a_completion_has_conditions_on_its_target(endpoint: Endpoint, bucket: str, key: str) -> None:
    target = path_of(bucket, key)
    number = endpoint.raw("POST", f"{target}?uploads").text("UploadId")
    etag = endpoint.raw("PUT", f"{target}?partNumber=1&uploadId={number}", body=b"part").headers["etag"]
    body = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    ).encode()
    finish = f"{target}?uploadId={number}"
    assert endpoint.raw("POST", finish, headers={"if-match": OTHER}, body=body).told == (404, "NoSuchKey")
    there = endpoint.raw("PUT", target, body=b"there").headers["etag"]
    assert endpoint.raw("POST", finish, headers={"if-none-match": "*"}, body=body).told == (412, "PreconditionFailed")
    assert endpoint.raw("POST", finish, headers={"if-match": OTHER}, body=body).told == (412, "PreconditionFailed")
    assert endpoint.raw("GET", target).body == b"there"
    assert endpoint.raw("POST", finish, headers={"if-match": there}, body=body).status == 200
    assert endpoint.raw("GET", target).body == b"part"
