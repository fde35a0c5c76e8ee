"""Any signed request, however odd, is answered as S3 answers: no failure of ours, and every refusal with its document."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import example, given, settings
from hypothesis import strategies as some
from s3_endpoints import Endpoint

ENDPOINTS = ("monofs", "directory")

NAMES = (
    "acl attributes cors delete encryption legal-hold lifecycle location notification object-lock partNumber policy restore retention select tagging "
    "torrent uploadId uploads versionId versioning versions website list-type prefix delimiter marker max-keys start-after continuation-token "
    "encoding-type key-marker upload-id-marker max-uploads max-parts part-number-marker response-content-type response-expires fetch-owner x-id"
)
HEADERS = (
    "range if-match if-none-match if-modified-since if-unmodified-since if-range content-type content-md5 content-encoding cache-control expires "
    "x-amz-copy-source x-amz-copy-source-range x-amz-copy-source-if-match x-amz-metadata-directive x-amz-tagging-directive x-amz-tagging x-amz-acl "
    "x-amz-meta-a x-amz-storage-class x-amz-checksum-crc32 x-amz-checksum-sha256 x-amz-checksum-mode x-amz-checksum-algorithm x-amz-checksum-type "
    "x-amz-sdk-checksum-algorithm x-amz-trailer x-amz-decoded-content-length x-amz-object-attributes x-amz-max-parts x-amz-part-number-marker "
    "x-amz-website-redirect-location x-amz-server-side-encryption x-amz-object-lock-mode x-amz-expected-bucket-owner x-amz-bypass"
)
odd = some.one_of(
    some.sampled_from(
        ["", "0", "1", "-1", "2", "10001", "99999999999999999999", "url", "null", "*", "/", "a", "a/", "bytes=0-1", "bytes=-1", "bytes=5-",
         "ENABLED", "REPLACE", "CRC32", "SHA256", "AAAAAA==", '"x"', "true", "private", "STANDARD", "aws-chunked", "k=v", "%", "{bucket}/there",
         "/{bucket}/missing", "ETag,ObjectSize", "Thu, 01 Dec 2033 16:00:00 GMT", "0" * 32]
    ),
    some.text(some.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12),
)  # fmt: skip
keys = some.one_of(
    some.sampled_from(
        [
            "",
            "there",
            "there/",
            "there/below",
            "dir/",
            "dir",
            "dir/file",
            "missing",
            "..",
            "a//b",
            ".monofs-tmp-x",
            "x" * 300,
        ]
    ),
    some.text(some.characters(codec="utf-8"), max_size=8),
)
bodies = some.one_of(
    some.sampled_from(
        [b"", b"x", b"<Delete><Object><Key>missing</Key></Object></Delete>", b"<Tagging><TagSet/></Tagging>", b"<a>" * 50, b"0\r\n\r\n",
         b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>"]
    ),
    some.binary(max_size=40),
)  # fmt: skip


@settings(max_examples=150)
@given(
    method=some.sampled_from(["GET", "GET", "HEAD", "PUT", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"]),
    key=keys,
    query=some.dictionaries(some.sampled_from(NAMES.split()), odd, max_size=3),
    headers=some.dictionaries(some.sampled_from(HEADERS.split()), odd, max_size=3),
    body=bodies,
    payload=some.sampled_from([None, None, None, "UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"]),
)
@example(method="GET", key="there", query={"attributes": ""}, headers={"x-amz-max-parts": "x"}, body=b"", payload=None)
def test_any_request_is_answered(
    endpoint: Endpoint,
    bucket: str,
    method: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
    payload: str | None,
) -> None:
    if method == "DELETE" and not key and not query:
        return  # the bucket of the others
    if key in ("", "there", "dir/file"):
        for each in ("there", "dir/file"):
            endpoint.raw("PUT", f"/{bucket}/{each}", body=b"0123456789")
    words = "&".join(f"{name}={quote(value.replace('{bucket}', bucket), safe='')}" for name, value in query.items())
    target = quote(f"/{bucket}/{key}", safe="/") + (f"?{words}" if words else "")
    told = {
        name: quote(value.replace("{bucket}", bucket), safe=' !"#$%&()*+,/:;<=>?@[]^_`{|}~')
        for name, value in headers.items()
    }
    answer = endpoint.raw(method, target, headers=told, body=body, payload=payload)
    assert answer.status < 500 or answer.status == 501, (answer.status, answer.body)
    assert answer.headers["x-amz-request-id"]
    if answer.status >= 400 and method != "HEAD":
        assert answer.code
        assert answer.text("Message")
        assert answer.text("RequestId") == answer.headers["x-amz-request-id"]
