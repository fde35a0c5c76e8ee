"""Requests to S3 stores are signed as botocore signs them, byte for byte, and as the S3 door verifies them."""

from __future__ import annotations

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from s3_stub import Stub, listing

from monofs.model.errors import UfsFailed
from monofs.ufs.base import ANYTHING
from monofs.ufs.registry import open_ufs
from monofs.ufs.s3_requests import S3Requests
from monofs.ufs.s3_settings import read_settings

KEYS = {
    "access_key": "AKIA",
    "secret_key": "se/cret",
    "session_token": "to+ken",
    "endpoint": "http://store.example:9000",
}
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


class _Told(S3SigV4Auth):  # type: ignore[misc]
    """Told the hash of the body instead of being given the body."""

    def payload(self, request: AWSRequest) -> str:
        return str(request.headers["x-amz-content-sha256"])


def signature_of(method: str, url: str, fields: dict[str, str]) -> str:
    """By botocore, over all fields that were signed."""
    names = fields["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    request = AWSRequest(method=method, url=url, headers={name: fields[name] for name in names})
    request.context["timestamp"] = fields["x-amz-date"]
    signer = _Told(Credentials(KEYS["access_key"], KEYS["secret_key"]), "s3", "eu-west-1")
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))


@given(
    key=st.binary(min_size=1, max_size=30),
    query=st.dictionaries(st.sampled_from(["prefix", "uploadId", "delete", "list-type", "x"]), st.binary(max_size=10), max_size=4),
    metadata=st.dictionaries(st.sampled_from(["x-amz-meta-a", "Content-Type", "If-Match", "x-amz-acl"]), TEXTS, max_size=4),
    host_style=st.booleans(),
)  # fmt: skip
def test_signatures_are_those_of_botocore(
    key: bytes, query: dict[str, bytes], metadata: dict[str, str], host_style: bool
) -> None:
    settings = read_settings("s3://bucket", {**KEYS, "region": "eu-west-1", "path_style": str(not host_style).lower()})
    requests = S3Requests(settings, 5)
    head = requests.head("PUT", key, query, metadata, [b"body"]).decode()
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    fields = dict(line.split(": ", 1) for line in lines)
    names = fields["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {*map(str.lower, metadata), "host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"} <= set(
        names
    )
    assert fields["authorization"].endswith(f"Signature={signature_of(method, settings.base + target, fields)}")


def test_a_header_that_would_become_two_is_not_sent(stub: Stub) -> None:
    stub.answer = lambda path, headers: (200, {}, listing())
    store = open_ufs("s3://bucket", {"endpoint": stub.endpoint, "access_key": "k", "secret_key": "s"}, timeout_s=5)
    for text in ("a\r\nx-amz-acl: public-read", "a\nb", "a\0"):
        with pytest.raises(UfsFailed, match="cannot be sent") as told:
            store.put(b"key", [memoryview(b"x")], "op", ANYTHING, {"x-amz-meta-note": text})
        assert told.value.detail["not_done"] == 1
    assert not stub.requests
