"""Uploads whose end comes while something else of theirs is under way."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import urlsplit

from botocore.awsrequest import AWSRequest
from s3_endpoints import UNSIGNED, Endpoint, Signer, path_of

from monofs.testing.nodes import ServedNode

ENDPOINTS = ("monofs",)
PART = 5 << 20


def test_a_part_that_comes_in_while_its_upload_is_aborted_leaves_nothing(
    endpoint: Endpoint, s3_node: ServedNode, bucket: str, key: str
) -> None:
    named = {"Bucket": bucket, "Key": key}
    upload = endpoint.client.create_multipart_upload(**named)["UploadId"]
    target = path_of(bucket, key, f"partNumber=1&uploadId={upload}")
    request = AWSRequest(method="PUT", url=endpoint.url + target, headers={"Expect": "100-continue"})
    Signer(endpoint.access_key, endpoint.secret_key, UNSIGNED, datetime.now(UTC)).add_auth(request)
    with closing(http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=10)) as connection:
        connection.putrequest("PUT", target)
        for name, value in (*request.headers.items(), ("Content-Length", str(PART))):
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.sock.recv(1000).startswith(b"HTTP/1.1 100")  # it knows the upload
        connection.send(bytes(PART - 1))
        endpoint.client.abort_multipart_upload(**named, UploadId=upload)
        connection.send(b"1")
        answer = connection.getresponse()
        assert (answer.status, b"NoSuchUpload" in answer.read()) == (404, True)
    assert upload not in s3_node.cli("fs", "find", "/.monofs-uploads").stdout


def test_completions_that_race_are_all_told_the_same(endpoint: Endpoint, bucket: str, key: str) -> None:
    named = {"Bucket": bucket, "Key": key}
    named["UploadId"] = endpoint.client.create_multipart_upload(**named)["UploadId"]
    tags = [endpoint.client.upload_part(**named, PartNumber=n, Body=bytes([n]) * PART)["ETag"] for n in (1, 2, 3)]
    parts = {"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]}

    def complete(_: int) -> str:
        return str(endpoint.client.complete_multipart_upload(**named, MultipartUpload=parts)["ETag"])

    with ThreadPoolExecutor(4) as pool:
        told = set(pool.map(complete, range(4)))
    assert told == {endpoint.client.head_object(Bucket=bucket, Key=key)["ETag"]}
    body = endpoint.client.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert body == b"".join(bytes([n]) * PART for n in (1, 2, 3))
