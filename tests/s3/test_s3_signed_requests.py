"""Who signed a request: header and presigned URL, clocks, keys, tampering; and what becomes of malformed ones."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from s3_endpoints import REGION, Endpoint, Reply, path_of, refused

ENDPOINTS = ("monofs", "radosgw")


def fetch(endpoint: Endpoint, url: str, method: str = "GET", body: bytes = b"", **headers: str) -> Reply:
    target = url.removeprefix(endpoint.url)
    return endpoint.send(method, target, headers.items(), body)


def presign(
    endpoint: Endpoint, target: str, *, method: str = "GET", age_s: int = 0, expires_s: int = 60, secret: str = ""
) -> str:
    """A URL, signed ``age_s`` ago."""

    class Aged(S3SigV4QueryAuth):
        def add_auth(self, request: AWSRequest) -> None:
            then = datetime.now(UTC) - timedelta(seconds=age_s)
            request.context["timestamp"] = then.strftime("%Y%m%dT%H%M%SZ")
            self._modify_request_before_signing(request)
            to_sign = self.string_to_sign(request, self.canonical_request(request))
            self._inject_signature_to_request(request, self.signature(to_sign, request))

    request = AWSRequest(method=method, url=endpoint.url + target)
    keys = Credentials(endpoint.access_key, secret or endpoint.secret_key)
    Aged(keys, "s3", REGION, expires=expires_s).add_auth(request)
    return str(request.url)


# ---- headers ------------------------------------------------------------------------------------------------------------------------


def test_a_wrong_secret_does_not_match(endpoint: Endpoint, bucket: str) -> None:
    for method, target in (("GET", f"/{bucket}"), ("PUT", path_of(bucket, "stolen")), ("GET", "/")):
        answer = endpoint.raw(method, target, secret_key="not the secret")
        assert answer.told == (403, "SignatureDoesNotMatch"), (method, target)
        assert endpoint.secret_key.encode() not in answer.body


def test_an_unknown_key_is_told_so(endpoint: Endpoint, bucket: str) -> None:
    answer = endpoint.raw("GET", f"/{bucket}", access_key="AKIANOBODY")
    assert answer.told == (403, "InvalidAccessKeyId")


def test_nobody_may_do_nothing(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    for method, target in (
        ("GET", f"/{bucket}"),
        ("GET", path_of(bucket, key)),
        ("PUT", path_of(bucket, key)),
        ("DELETE", path_of(bucket, key)),
        ("PUT", "/anybodys-bucket"),
    ):
        assert endpoint.raw(method, target, signed=False).told == (403, "AccessDenied"), (method, target)
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"x"


@pytest.mark.parametrize("minutes", [-60, -16, 16, 60])
def test_a_clock_that_is_off_is_told_so(endpoint: Endpoint, bucket: str, minutes: int) -> None:
    answer = endpoint.raw("GET", f"/{bucket}", clock=timedelta(minutes=minutes))
    assert answer.told == (403, "RequestTimeTooSkewed")


@pytest.mark.parametrize("minutes", [-14, 14])
def test_a_clock_that_is_a_little_off_is_taken(endpoint: Endpoint, bucket: str, minutes: int) -> None:
    assert endpoint.raw("GET", f"/{bucket}", clock=timedelta(minutes=minutes)).status == 200


def tampered(endpoint: Endpoint, bucket: str, change: str) -> Reply:
    from s3_endpoints import Signer

    target = path_of(bucket, "tampered")
    request = AWSRequest(method="GET", url=endpoint.url + target, headers={"x-amz-meta-a": "1", "range": "bytes=0-1"})
    Signer(endpoint.access_key, endpoint.secret_key, "UNSIGNED-PAYLOAD", datetime.now(UTC)).add_auth(request)
    headers = dict(request.headers.items())
    method = "GET"
    if change == "path":
        target = path_of(bucket, "other")
    elif change == "query":
        target += "?versionId=null"
    elif change == "method":
        method = "DELETE"
    elif change == "header":
        headers["x-amz-meta-a"] = "2"
    elif change == "range":
        headers["range"] = "bytes=0-5"
    elif change == "host":
        headers["Host"] = "other.example"
    elif change == "date":
        headers["X-Amz-Date"] = (datetime.now(UTC) + timedelta(seconds=5)).strftime("%Y%m%dT%H%M%SZ")
    elif change == "payload":
        headers["X-Amz-Content-SHA256"] = "0" * 64
    elif change == "more":
        headers["x-amz-security-policy"] = "own"
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=10)
    try:
        connection.putrequest(method, target, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return Reply(answer.status, {}, answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("change", ["path", "query", "method", "header", "range", "host", "date", "payload"])
def test_what_was_changed_after_signing_does_not_match(endpoint: Endpoint, bucket: str, change: str) -> None:
    assert tampered(endpoint, bucket, change).told == (403, "SignatureDoesNotMatch")


def test_a_header_of_amazon_that_was_not_signed_is_refused(endpoint: Endpoint, bucket: str) -> None:
    assert tampered(endpoint, bucket, "more").told == (403, "AccessDenied")


@pytest.mark.parametrize(
    "header",
    [
        "nonsense",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=f",
        "AWS4-HMAC-SHA256 Credential=A/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=",
        "AWS4-HMAC-SHA256 Credential=A/20200101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=" + "0" * 64,
        "Basic dXNlcjpwYXNz",
        "Bearer token",
        "",
    ],
    ids=range(9),
)
def test_an_authorization_that_is_malformed_is_refused(endpoint: Endpoint, bucket: str, header: str) -> None:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {"Authorization": header, "x-amz-date": now, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    answer = endpoint.send("GET", f"/{bucket}", headers.items())
    assert answer.status in (400, 403)
    assert answer.code


@pytest.mark.parametrize("date", ["", "nonsense", "20200101", "99999999T999999Z"])
def test_a_date_that_is_none_is_refused(endpoint: Endpoint, bucket: str, date: str) -> None:
    header = f"AWS4-HMAC-SHA256 Credential={endpoint.access_key}/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature={'0' * 64}"
    headers = {"Authorization": header, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": date}
    answer = endpoint.send("GET", f"/{bucket}", headers.items())
    assert answer.status in (400, 403)


def test_any_region_is_taken(endpoint: Endpoint, bucket: str) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=endpoint.url, region_name="eu-central-1", aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key, config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    assert client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    client.close()


# ---- presigned URLs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["s3v4", "s3"])
def presigner(request: pytest.FixtureRequest, endpoint: Endpoint) -> Iterator[Any]:
    """A client that makes URLs of version 4, and as boto3 does unless told otherwise: version 2 for us-east-1."""
    client = endpoint.make_client(signature_version=request.param)
    yield client
    client.close()


def test_a_presigned_url_reads(endpoint: Endpoint, presigner: Any, bucket: str, key: str) -> None:
    endpoint.client.put_object(Bucket=bucket, Key=f"{key}/ü +%", Body=b"shared")
    parameters = {"Bucket": bucket, "Key": f"{key}/ü +%", "ResponseContentType": "text/own"}
    answer = fetch(endpoint, presigner.generate_presigned_url("get_object", parameters, ExpiresIn=60))
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"shared", "text/own")


def test_a_presigned_url_writes(endpoint: Endpoint, presigner: Any, bucket: str, key: str) -> None:
    url = presigner.generate_presigned_url("put_object", {"Bucket": bucket, "Key": key}, ExpiresIn=60)
    assert fetch(endpoint, url, "PUT", b"sent").status == 200
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"sent"


def test_a_client_that_signs_headers_by_version_2_works(endpoint: Endpoint, bucket: str, key: str) -> None:
    old = endpoint.make_client(signature_version="s3", request_checksum_calculation="when_required")
    old.put_object(Bucket=bucket, Key=f"{key}/ü +%", Body=b"old", Metadata={"a": "1"}, ContentType="text/own")
    found = old.get_object(Bucket=bucket, Key=f"{key}/ü +%")
    assert (found["Body"].read(), found["Metadata"], found["ContentType"]) == (b"old", {"a": "1"}, "text/own")
    assert [each["Key"] for each in old.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]] == [f"{key}/ü +%"]
    wrong = endpoint.make_client(signature_version="s3", secret_key="wrong")
    assert refused(wrong.list_objects, Bucket=bucket) == (403, "SignatureDoesNotMatch")
    for each in (old, wrong):
        each.close()


def test_a_presigned_url_is_for_one_method(endpoint: Endpoint, presigner: Any, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    url = presigner.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key})
    assert fetch(endpoint, url, "PUT", b"no").told == (403, "SignatureDoesNotMatch")
    assert fetch(endpoint, url, "DELETE").told == (403, "SignatureDoesNotMatch")
    assert fetch(endpoint, url).body == b"x"


def test_headers_that_a_url_signs_have_to_be_sent(endpoint: Endpoint, presigner: Any, bucket: str, key: str) -> None:
    parameters = {"Bucket": bucket, "Key": key, "ContentType": "text/own"}
    url = presigner.generate_presigned_url("put_object", parameters)
    assert fetch(endpoint, url, "PUT", b"x").told == (403, "SignatureDoesNotMatch")
    assert fetch(endpoint, url, "PUT", b"x", **{"Content-Type": "text/own"}).status == 200


def test_a_url_expires(endpoint: Endpoint, bucket: str, key: str) -> None:
    endpoint.raw("PUT", path_of(bucket, key), body=b"x")
    target = path_of(bucket, key)
    assert fetch(endpoint, presign(endpoint, target, age_s=50, expires_s=60)).status == 200
    assert fetch(endpoint, presign(endpoint, target, age_s=70, expires_s=60)).told == (403, "AccessDenied")
    assert fetch(endpoint, presign(endpoint, target, age_s=86_400, expires_s=604_800)).status == 200


def test_a_url_of_the_future_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    assert fetch(endpoint, presign(endpoint, path_of(bucket, key), age_s=-3600)).status == 403


@pytest.mark.parametrize("expires_s", ["0", "-1", "604801", "x", ""])
def test_a_life_that_is_none_is_refused(endpoint: Endpoint, bucket: str, key: str, expires_s: str) -> None:
    url = presign(endpoint, path_of(bucket, key)).replace("X-Amz-Expires=60", f"X-Amz-Expires={expires_s}")
    answer = fetch(endpoint, url)
    assert answer.told == (400, "AuthorizationQueryParametersError")


def test_a_url_that_was_changed_does_not_match(endpoint: Endpoint, bucket: str, key: str) -> None:
    url = presign(endpoint, path_of(bucket, key))
    for changed in (
        url.replace(f"/{key}?", "/other?"),
        url + "&versionId=null",
        url + "&response-content-type=text/html",
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"),
        re.sub(r"Signature=(.)", lambda found: f"Signature={'0' if found[1] != '0' else '1'}", url),
        presign(endpoint, path_of(bucket, key), secret="wrong"),
    ):
        assert fetch(endpoint, changed).told == (403, "SignatureDoesNotMatch"), changed


@pytest.mark.parametrize(
    "name", ["X-Amz-Signature", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Expires"]
)
def test_a_url_without_all_it_needs_is_refused(endpoint: Endpoint, bucket: str, key: str, name: str) -> None:
    url = presign(endpoint, path_of(bucket, key))
    answer = fetch(endpoint, re.sub(rf"[?&]{name}=[^&]*", "", url).replace("/" + key + "&", "/" + key + "?"))
    assert answer.told == (400, "AuthorizationQueryParametersError")


def test_metadata_may_come_in_the_url(endpoint: Endpoint, bucket: str, key: str) -> None:
    url = presign(endpoint, path_of(bucket, key, "x-amz-meta-a=1%202"), method="PUT")
    assert fetch(endpoint, url, "PUT", b"sent").status == 200
    assert endpoint.client.head_object(Bucket=bucket, Key=key)["Metadata"] == {"a": "1 2"}
    changed = url.replace("x-amz-meta-a=1", "x-amz-meta-a=3")
    assert fetch(endpoint, changed, "PUT", b"sent").told == (403, "SignatureDoesNotMatch")


def test_a_url_signed_before_there_was_a_body_takes_any(endpoint: Endpoint, bucket: str, key: str) -> None:
    """The SDK for JavaScript puts the checksum of no bytes into every URL that uploads."""
    query = "x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32&x-id=PutObject"
    url = presign(endpoint, path_of(bucket, key, query), method="PUT")
    assert fetch(endpoint, url, "PUT", b"sent").status == 200
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"sent"


def test_two_signatures_are_too_many(endpoint: Endpoint, bucket: str, key: str) -> None:
    target = presign(endpoint, path_of(bucket, key)).removeprefix(endpoint.url)
    assert endpoint.raw("GET", target).told == (400, "InvalidArgument")


# ---- errors -------------------------------------------------------------------------------------------------------------------------


def test_an_error_is_a_document_with_the_id_of_its_request(endpoint: Endpoint, bucket: str) -> None:
    answer = endpoint.raw("GET", path_of(bucket, "missing & <odd>"))
    assert (answer.document.tag, answer.headers["content-type"]) == ("Error", "application/xml")
    assert answer.text("Code") == "NoSuchKey"
    assert answer.text("Message")
    assert answer.text("RequestId") == answer.headers["x-amz-request-id"]
    assert answer.text("HostId")
    assert answer.text("Resource")


@pytest.mark.parametrize(
    "target",
    ["/%", "/%zz", "/{bucket}/%ff%fe", "/{bucket}/%c3%28", "/{bucket}?prefix=%ff", "/%ff", "//key", "/{bucket}/a%"],
)
def test_a_target_that_is_malformed_is_no_failure_of_ours(endpoint: Endpoint, bucket: str, target: str) -> None:
    answer = endpoint.raw("GET", target.replace("{bucket}", bucket))
    assert 400 <= answer.status < 500
    assert answer.code


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=range(10),
)
def test_what_is_no_http_is_no_failure_of_ours(endpoint: Endpoint, data: bytes) -> None:
    answer = endpoint.talk(data)
    assert answer == b"" or re.match(rb"HTTP/1\.[01] (4\d\d|505) ", answer), answer[:200]


def test_methods_that_objects_do_not_know_are_not_allowed(endpoint: Endpoint, bucket: str, key: str) -> None:
    assert endpoint.raw("POST", path_of(bucket, key), body=b"x").status == 405
    assert endpoint.raw("PATCH", path_of(bucket, key)).told == (405, "MethodNotAllowed")
