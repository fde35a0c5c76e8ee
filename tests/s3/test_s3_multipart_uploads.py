"""CreateMultipartUpload, UploadPart, UploadPartCopy, ListParts, ListMultipartUploads, CompleteMultipartUpload, AbortMultipartUpload.

Completion checks sizes of parts: most tests have one small part, or one of 5 MiB and a small one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from s3_checksums import ALGORITHMS, checksum, composite, header_of
from s3_endpoints import Endpoint, Reply, path_of, refused

BIG = b"0123456789abcdef" * (5 << 16)
assert len(BIG) == 5 << 20


@dataclass
class Upload:
    """One upload under way."""

    endpoint: Endpoint
    bucket: str
    key: str
    number: str

    def target(self, query: str = "") -> str:
        return path_of(self.bucket, self.key, f"{query}uploadId={quote(self.number, safe='')}")

    def part(self, part: int, data: bytes, headers: dict[str, str] | None = None) -> Reply:
        return self.endpoint.raw(
            "PUT", self.target(f"partNumber={part}&"), headers=headers, body=data, payload="UNSIGNED-PAYLOAD"
        )

    def complete(self, parts: list[tuple[int, str]], headers: dict[str, str] | None = None, more: str = "") -> Reply:
        named = "".join(
            f"<Part><PartNumber>{part}</PartNumber><ETag>{etag}</ETag>{more}</Part>" for part, etag in parts
        )
        body = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{named}</CompleteMultipartUpload>'
        return self.endpoint.raw("POST", self.target(), headers=headers, body=body.encode())

    def abort(self) -> Reply:
        return self.endpoint.raw("DELETE", self.target())

    def parts(self, query: str = "") -> Reply:
        return self.endpoint.raw("GET", self.target(query))


def begin(endpoint: Endpoint, bucket: str, key: str, headers: dict[str, str] | None = None) -> Upload:
    answer = endpoint.raw("POST", path_of(bucket, key, "uploads"), headers=headers)
    assert (answer.status, answer.text("Bucket"), answer.text("Key")) == (200, bucket, key)
    return Upload(endpoint, bucket, key, answer.text("UploadId") or "")


@pytest.fixture
def upload(endpoint: Endpoint, bucket: str, key: str) -> Upload:
    """One just begun."""
    return begin(endpoint, bucket, key)


def etag_of(*parts: bytes) -> str:
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(parts)}"'


def test_parts_are_joined_in_order_of_their_numbers(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    last, first = upload.part(7, b"last").headers["etag"], upload.part(3, BIG).headers["etag"]
    assert first == f'"{hashlib.md5(BIG).hexdigest()}"'
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404
    answer = upload.complete([(3, first), (7, last)])
    assert (answer.status, answer.document.tag) == (200, "CompleteMultipartUploadResult")
    assert (answer.text("ETag"), answer.text("Bucket"), answer.text("Key")) == (etag_of(BIG, b"last"), bucket, key)
    assert answer.text("Location")
    found = endpoint.raw("GET", path_of(bucket, key))
    assert (found.body, found.headers["etag"]) == (BIG + b"last", etag_of(BIG, b"last"))
    listed = endpoint.client.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]
    assert [(each["Key"], each["ETag"], each["Size"]) for each in listed] == [
        (key, found.headers["etag"], len(BIG) + 4)
    ]


def test_a_part_is_read_by_its_number(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    parts = [(number, upload.part(number, data).headers["etag"]) for number, data in ((1, BIG), (2, b"tail"))]
    upload.complete(parts)
    for number, data, where in ((1, BIG, f"bytes 0-{len(BIG) - 1}"), (2, b"tail", f"bytes {len(BIG)}-{len(BIG) + 3}")):
        found = endpoint.raw("GET", path_of(bucket, key, f"partNumber={number}"))
        assert (found.status, found.body) == (206, data)
        assert found.headers["content-range"] == f"{where}/{len(BIG) + 4}"
        assert found.headers["x-amz-mp-parts-count"] == "2"
    head = endpoint.raw("HEAD", path_of(bucket, key, "partNumber=2"))
    assert (head.status, head.headers["content-length"]) == (206, "4")
    assert endpoint.raw("GET", path_of(bucket, key, "partNumber=3")).told == (416, "InvalidPartNumber")


def test_what_was_said_at_the_beginning_is_kept(endpoint: Endpoint, bucket: str, key: str) -> None:
    headers = {"content-type": "a/b", "x-amz-meta-color": "blue", "cache-control": "no-store", "x-amz-tagging": "k=v"}
    upload = begin(endpoint, bucket, key, headers)
    upload.complete([(1, upload.part(1, b"x").headers["etag"])])
    found = endpoint.raw("HEAD", path_of(bucket, key)).headers
    assert [found[name] for name in ("content-type", "x-amz-meta-color", "cache-control")] == [
        "a/b",
        "blue",
        "no-store",
    ]
    assert endpoint.client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"] == [{"Key": "k", "Value": "v"}]


def test_a_part_that_comes_again_replaces_the_first(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    old = upload.part(1, b"old").headers["etag"]
    new = upload.part(1, b"new").headers["etag"]
    assert upload.complete([(1, old)]).told == (400, "InvalidPart")
    assert upload.complete([(1, new)]).status == 200
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"new"


def test_parts_that_are_not_named_are_left_out(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    upload.part(1, b"not wanted")
    wanted = upload.part(2, b"wanted").headers["etag"]
    assert upload.complete([(2, wanted)]).status == 200
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"wanted"


def test_an_upload_replaces_what_is_there_when_it_ends(
    endpoint: Endpoint, bucket: str, key: str, upload: Upload
) -> None:
    endpoint.raw("PUT", path_of(bucket, key), headers={"x-amz-meta-gone": "1"}, body=b"there")
    etag = upload.part(1, b"new").headers["etag"]
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"there"
    upload.complete([(1, etag)])
    found = endpoint.raw("GET", path_of(bucket, key))
    assert found.body == b"new"
    assert "x-amz-meta-gone" not in found.headers


def test_only_the_last_part_may_be_small(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    parts = [(number, upload.part(number, b"small").headers["etag"]) for number in (1, 2)]
    assert upload.complete(parts).told == (400, "EntityTooSmall")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404


def test_a_part_that_did_not_come_is_invalid(upload: Upload) -> None:
    etag = upload.part(1, b"x").headers["etag"]
    assert upload.complete([(2, etag)]).told == (400, "InvalidPart")
    assert upload.complete([(1, '"00000000000000000000000000000000"')]).told == (400, "InvalidPart")
    assert upload.complete([(1, etag)]).status == 200


def test_parts_have_to_be_named_in_order(upload: Upload) -> None:
    one, two = upload.part(1, BIG).headers["etag"], upload.part(2, b"x").headers["etag"]
    assert upload.complete([(2, two), (1, one)]).told == (400, "InvalidPartOrder")
    assert upload.complete([(1, one), (1, one)]).told == (400, "InvalidPartOrder")
    assert upload.complete([(1, one), (2, two)]).status == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"<CompleteMultipartUpload/>", b"<CompleteMultipartUpload><Part/></CompleteMultipartUpload>"],
    ids=range(4),
)
def test_a_completion_that_is_malformed_is_refused(endpoint: Endpoint, upload: Upload, body: bytes) -> None:
    upload.part(1, b"x")
    assert endpoint.raw("POST", upload.target(), body=body).told == (400, "MalformedXML")


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", ""])
def test_a_number_that_no_part_has_is_refused(endpoint: Endpoint, upload: Upload, number: str) -> None:
    answer = endpoint.raw("PUT", upload.target(f"partNumber={number}&"), body=b"x")
    assert answer.told == (400, "InvalidArgument")


def test_an_upload_that_was_aborted_is_gone(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    etag = upload.part(1, b"x").headers["etag"]
    assert upload.abort().status == 204
    assert upload.part(2, b"x").told == (404, "NoSuchUpload")
    assert upload.parts().told == (404, "NoSuchUpload")
    assert upload.complete([(1, etag)]).told == (404, "NoSuchUpload")
    assert upload.abort().told == (404, "NoSuchUpload")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404
    assert key not in [each["Key"] for each in endpoint.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@pytest.mark.parametrize("number", ["nonsense", "..", "0" * 32, "../../etc", "%00"])
def test_an_upload_that_never_was(endpoint: Endpoint, bucket: str, key: str, number: str) -> None:
    upload = Upload(endpoint, bucket, key, number)
    assert upload.part(1, b"x").told == (404, "NoSuchUpload")
    assert upload.parts().told == (404, "NoSuchUpload")
    assert upload.complete([(1, '"x"')]).told == (404, "NoSuchUpload")
    assert upload.abort().told == (404, "NoSuchUpload")


def test_an_upload_belongs_to_its_key(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    other = Upload(endpoint, bucket, f"{key}-other", upload.number)
    assert other.part(1, b"x").told == (404, "NoSuchUpload")
    assert other.abort().told == (404, "NoSuchUpload")
    assert upload.abort().status == 204


def test_completing_what_is_completed_by_the_number_of_another_key_leaves_that_upload(
    endpoint: Endpoint, bucket: str, key: str, upload: Upload
) -> None:
    upload.part(1, b"theirs")
    mine = begin(endpoint, bucket, f"{key}-other")
    etag = mine.part(1, b"mine").headers["etag"]
    assert mine.complete([(1, etag)]).status == 200
    Upload(endpoint, bucket, f"{key}-other", upload.number).complete([(1, etag)])
    assert upload.parts().status == 200
    assert upload.abort().status == 204


def test_a_completion_that_comes_again_succeeds(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    """User Guide: a client that lost the answer sends the same again, and is told the same."""
    etag = upload.part(1, b"x").headers["etag"]
    first = upload.complete([(1, etag)])
    again = upload.complete([(1, etag)])
    assert (first.status, again.status) == (200, 200)
    assert first.text("ETag") == again.text("ETag")


def test_another_client_may_complete(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    etag = upload.part(1, b"x").headers["etag"]
    other = endpoint.make_client()
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag.strip('"')}]}
    found = other.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload.number, MultipartUpload=parts)
    assert found["ETag"] == etag_of(b"x")
    other.close()


def test_two_uploads_of_a_key_do_not_mix(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    other = begin(endpoint, bucket, key)
    assert other.number != upload.number
    one, two = upload.part(1, b"one").headers["etag"], other.part(1, b"two").headers["etag"]
    assert other.complete([(1, two)]).status == 200
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"two"
    assert upload.complete([(1, one)]).status == 200
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"one"


def test_the_transfer_manager_of_boto3_works(endpoint: Endpoint, bucket: str, key: str) -> None:
    from io import BytesIO

    from boto3.s3.transfer import TransferConfig

    data = BIG * 2 + b"tail"
    config = TransferConfig(multipart_threshold=1, multipart_chunksize=5 << 20, max_concurrency=3)
    endpoint.client.upload_fileobj(BytesIO(data), bucket, key, Config=config)
    into = BytesIO()
    endpoint.client.download_fileobj(bucket, key, into, Config=config)
    assert into.getvalue() == data
    assert endpoint.raw("HEAD", path_of(bucket, key)).headers["etag"] == etag_of(BIG, BIG, b"tail")


# ---- checksums --------------------------------------------------------------------------------------------------------------------

KINDS = [(name, kind) for name in ALGORITHMS for kind in ("COMPOSITE", "FULL_OBJECT")]
KINDS = [
    each
    for each in KINDS
    if each not in (("CRC64NVME", "COMPOSITE"), ("SHA1", "FULL_OBJECT"), ("SHA256", "FULL_OBJECT"))
]


@pytest.mark.parametrize(("algorithm", "kind"), KINDS)
def test_an_upload_has_a_checksum(endpoint: Endpoint, bucket: str, key: str, algorithm: str, kind: str) -> None:
    said = {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind}
    answer = endpoint.raw("POST", path_of(bucket, key, "uploads"), headers=said)
    assert (answer.headers["x-amz-checksum-algorithm"], answer.headers["x-amz-checksum-type"]) == (algorithm, kind)
    upload = Upload(endpoint, bucket, key, answer.text("UploadId") or "")
    named = ""
    for number, data in ((1, BIG), (2, b"tail")):
        value = checksum(algorithm, data)
        put = upload.part(number, data, {header_of(algorithm): value})
        assert put.headers[header_of(algorithm)] == value
        named += (
            f"<Part><PartNumber>{number}</PartNumber><ETag>{put.headers['etag']}</ETag>"
            f"<Checksum{algorithm}>{value}</Checksum{algorithm}></Part>"
        )
    body = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
    whole = BIG + b"tail"
    expected = composite(algorithm, [BIG, b"tail"]) if kind == "COMPOSITE" else checksum(algorithm, whole)
    done = endpoint.raw("POST", upload.target(), headers={"x-amz-checksum-type": kind}, body=body)
    assert (done.status, done.text(f"Checksum{algorithm}"), done.text("ChecksumType")) == (200, expected, kind)
    head = endpoint.raw("HEAD", path_of(bucket, key), headers={"x-amz-checksum-mode": "ENABLED"}).headers
    assert (head[header_of(algorithm)], head["x-amz-checksum-type"]) == (expected, kind)


def test_a_checksum_of_the_whole_is_compared(endpoint: Endpoint, bucket: str, key: str) -> None:
    said = {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"}
    upload = begin(endpoint, bucket, key, said)
    etag = upload.part(1, b"data", {"x-amz-checksum-crc32": checksum("CRC32", b"data")}).headers["etag"]
    more = f"<ChecksumCRC32>{checksum('CRC32', b'data')}</ChecksumCRC32>"
    told = {"x-amz-checksum-type": "FULL_OBJECT"}
    wrong = {**told, "x-amz-checksum-crc32": checksum("CRC32", b"other")}
    assert upload.complete([(1, etag)], wrong, more).told == (400, "BadDigest")
    assert endpoint.raw("HEAD", path_of(bucket, key)).status == 404
    right = {**told, "x-amz-checksum-crc32": checksum("CRC32", b"data")}
    assert upload.complete([(1, etag)], right, more).status == 200


def test_a_part_with_a_wrong_checksum_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    upload = begin(endpoint, bucket, key, {"x-amz-checksum-algorithm": "SHA256"})
    wrong = {"x-amz-checksum-sha256": checksum("SHA256", b"other")}
    assert upload.part(1, b"data", wrong).told == (400, "BadDigest")
    assert list(upload.parts().document.iter("Part")) == []


def test_a_checksum_of_another_kind_than_was_said_is_refused(endpoint: Endpoint, bucket: str, key: str) -> None:
    upload = begin(endpoint, bucket, key, {"x-amz-checksum-algorithm": "SHA256"})
    other = {"x-amz-checksum-crc32": checksum("CRC32", b"data")}
    assert upload.part(1, b"data", other).told == (400, "InvalidRequest")


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("CRC7", ""), ("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE"), ("CRC32", "HALF")]
)
def test_a_checksum_that_cannot_be_is_refused(
    endpoint: Endpoint, bucket: str, key: str, algorithm: str, kind: str
) -> None:
    headers = {"x-amz-checksum-algorithm": algorithm} | ({"x-amz-checksum-type": kind} if kind else {})
    assert endpoint.raw("POST", path_of(bucket, key, "uploads"), headers=headers).told == (400, "InvalidRequest")


# ---- listings -----------------------------------------------------------------------------------------------------------------------


def test_parts_are_listed_in_pages(upload: Upload) -> None:
    for number in (1, 3, 9, 20, 21):
        upload.part(number, b"%d" % number)
    whole = upload.parts().document
    assert [each.findtext("PartNumber") for each in whole.iter("Part")] == ["1", "3", "9", "20", "21"]
    first = whole.find("Part")
    assert first is not None
    assert [first.findtext(name) for name in ("ETag", "Size")] == [f'"{hashlib.md5(b"1").hexdigest()}"', "1"]
    assert [whole.findtext(name) for name in ("Bucket", "Key", "UploadId", "IsTruncated", "MaxParts", "StorageClass")] == [
        upload.bucket, upload.key, upload.number, "false", "1000", "STANDARD",
    ]  # fmt: skip
    found, marker = [], "0"
    for _ in range(3):
        page = upload.parts(f"max-parts=2&part-number-marker={marker}&").document
        found.append([each.findtext("PartNumber") for each in page.iter("Part")])
        marker = page.findtext("NextPartNumberMarker") or ""
    assert found == [["1", "3"], ["9", "20"], ["21"]]
    assert page.findtext("IsTruncated") == "false"


@pytest.mark.parametrize("query", ["max-parts=x&", "max-parts=-1&", "part-number-marker=x&"])
def test_a_page_of_parts_that_is_none_is_refused(upload: Upload, query: str) -> None:
    assert upload.parts(query).told == (400, "InvalidArgument")


def uploads(endpoint: Endpoint, bucket: str, **case: Any) -> tuple[list[str], list[str]]:
    found = endpoint.client.list_multipart_uploads(Bucket=bucket, **case)
    return [each["Key"] for each in found.get("Uploads", [])], [
        each["Prefix"] for each in found.get("CommonPrefixes", [])
    ]


def test_uploads_are_listed_by_key(endpoint: Endpoint, fresh: str) -> None:
    names = ["b", "a/2", "a/1", "c/x/y", "b"]
    begun = [begin(endpoint, fresh, name) for name in names]
    assert uploads(endpoint, fresh) == (["a/1", "a/2", "b", "b", "c/x/y"], [])
    assert uploads(endpoint, fresh, Prefix="a/") == (["a/1", "a/2"], [])
    assert uploads(endpoint, fresh, Delimiter="/") == (["b", "b"], ["a/", "c/"])
    assert uploads(endpoint, fresh, Prefix="c/", Delimiter="/") == ([], ["c/x/"])
    assert uploads(endpoint, fresh, KeyMarker="a/2") == (["b", "b", "c/x/y"], [])
    pages = endpoint.client.get_paginator("list_multipart_uploads").paginate(
        Bucket=fresh, PaginationConfig={"PageSize": 2}
    )
    found = [(each["Key"], each["UploadId"]) for page in pages for each in page["Uploads"]]
    assert sorted(found) == sorted((each.key, each.number) for each in begun)
    assert [key for key, _ in found] == sorted(names)
    for each in begun:
        each.abort()
    assert uploads(endpoint, fresh) == ([], [])


def test_an_upload_is_no_object(endpoint: Endpoint, fresh: str) -> None:
    upload = begin(endpoint, fresh, "key")
    upload.part(1, b"x")
    assert "Contents" not in endpoint.client.list_objects_v2(Bucket=fresh)
    upload.abort()


# ---- UploadPartCopy -----------------------------------------------------------------------------------------------------------------


def test_a_part_is_copied(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    endpoint.raw("PUT", path_of(bucket, f"{key}-source"), body=BIG + b"0123456789")
    source = {"x-amz-copy-source": f"{bucket}/{key}-source"}
    one = upload.part(1, b"", {**source, "x-amz-copy-source-range": f"bytes=0-{len(BIG) - 1}"})
    assert (one.status, one.document.tag) == (200, "CopyPartResult")
    assert one.text("ETag") == f'"{hashlib.md5(BIG).hexdigest()}"'
    two = upload.part(2, b"", {**source, "x-amz-copy-source-range": f"bytes={len(BIG) + 2}-{len(BIG) + 5}"})
    done = upload.complete([(1, one.text("ETag") or ""), (2, two.text("ETag") or "")])
    assert done.text("ETag") == etag_of(BIG, b"2345")
    assert endpoint.raw("GET", path_of(bucket, key), headers={"range": "bytes=-6"}).body == BIG[-2:] + b"2345"


def test_a_whole_object_is_copied_as_a_part(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    endpoint.raw("PUT", path_of(bucket, f"{key}-source"), body=b"whole")
    answer = upload.part(1, b"", {"x-amz-copy-source": f"{bucket}/{key}-source"})
    upload.complete([(1, answer.text("ETag") or "")])
    assert endpoint.raw("GET", path_of(bucket, key)).body == b"whole"


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("bytes=0-100", (416, "InvalidRange")),
        ("bytes=0-", (400, "InvalidArgument")),
        ("bytes=-2", (400, "InvalidArgument")),
        ("bytes=3-1", (400, "InvalidArgument")),
        ("0-1", (400, "InvalidArgument")),
    ],
)
def test_a_range_of_a_part_has_to_be_closed_and_there(
    endpoint: Endpoint, bucket: str, key: str, upload: Upload, where: str, told: tuple[int, str]
) -> None:
    endpoint.raw("PUT", path_of(bucket, f"{key}-source"), body=b"01234")
    headers = {"x-amz-copy-source": f"{bucket}/{key}-source", "x-amz-copy-source-range": where}
    assert upload.part(1, b"", headers).told == told


def test_a_part_copied_from_nothing(bucket: str, upload: Upload) -> None:
    assert upload.part(1, b"", {"x-amz-copy-source": f"{bucket}/never-made"}).told == (404, "NoSuchKey")
    assert upload.part(1, b"", {"x-amz-copy-source": "not-there/key"}).told == (404, "NoSuchBucket")


def test_a_copied_part_has_conditions(endpoint: Endpoint, bucket: str, key: str, upload: Upload) -> None:
    etag = endpoint.raw("PUT", path_of(bucket, f"{key}-source"), body=b"x").headers["etag"]
    source = {"x-amz-copy-source": f"{bucket}/{key}-source"}
    wrong = {**source, "x-amz-copy-source-if-none-match": etag}
    assert upload.part(1, b"", wrong).told == (412, "PreconditionFailed")
    assert upload.part(1, b"", {**source, "x-amz-copy-source-if-match": etag}).status == 200


def test_an_upload_into_a_bucket_that_is_not_there(endpoint: Endpoint) -> None:
    assert refused(endpoint.client.create_multipart_upload, Bucket="not-there", Key="a") == (404, "NoSuchBucket")
    assert endpoint.raw("GET", "/not-there?uploads").told == (404, "NoSuchBucket")
