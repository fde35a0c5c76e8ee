"""Signatures of version 2: what botocore and Amazon's own examples sign is believed, and nothing else."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from signed_requests import KEY, SECRET, head_of, secret_of, wire_head

from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.head import Head
from monofs.gateways.s3.requests import Action, read_request
from monofs.gateways.s3.signing import STREAMING_UNSIGNED_TRAILER, Signed
from monofs.gateways.s3.signing_v2 import authenticate, is_signed_so
from monofs.model.sigv4 import UNSIGNED

DOMAINS = ("s3.example",)
EXAMPLE_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
WEEK_S = 7 * 86400


def signed(method: str, url: str, headers: dict[str, str] | None = None, *, auth_path: str | None = None) -> Head:
    request = AWSRequest(method=method, url=url, headers=headers or {}, auth_path=auth_path)
    HmacV1Auth(Credentials(KEY, SECRET)).add_auth(request)
    return head_of(method, request.url, request.headers)


def presigned(url: str, *, method: str = "GET", expires_s: int = 600, headers: dict[str, str] | None = None) -> str:
    request = AWSRequest(method=method, url=url, headers=headers or {})
    HmacV1QueryAuth(Credentials(KEY, SECRET), expires=expires_s).add_auth(request)
    return str(request.url)


def believed(head: Head, now_s: float | None = None) -> Signed:
    assert is_signed_so(head)
    return authenticate(head, secret_of, time.time() if now_s is None else now_s, DOMAINS)


def refused(head: Head, now_s: float | None = None) -> str:
    with pytest.raises(S3Error) as caught:
        believed(head, now_s)
    assert SECRET not in repr(vars(caught.value))
    return caught.value.code


@pytest.mark.parametrize(
    ("method", "target", "fields", "signature"),
    [
        (
            "GET",
            "/photos/puppy.jpg",
            {"Host": "awsexamplebucket1.us-west-1.s3.amazonaws.com", "Date": "Tue, 27 Mar 2007 19:36:42 +0000"},
            "qgk2+6Sv9/oM7G3qLEjTH1a1l1g=",
        ),
        (
            "GET",
            "/?prefix=photos&max-keys=50&marker=puppy",
            {"Host": "awsexamplebucket1.us-west-1.s3.amazonaws.com", "Date": "Tue, 27 Mar 2007 19:42:41 +0000"},
            "m0WP8eCtspQl5Ahe6L1SozdX9YA=",
        ),
    ],
)
def test_the_examples_of_the_user_guide_are_believed(
    method: str, target: str, fields: dict[str, str], signature: str
) -> None:
    fields = {**fields, "Authorization": f"AWS AKIAIOSFODNN7EXAMPLE:{signature}"}
    head = wire_head(method.encode(), target.encode(), [(k.encode(), v.encode()) for k, v in fields.items()])
    then_s = 1175024202.0
    found = authenticate(head, lambda _: EXAMPLE_SECRET, then_s + 300, ("us-west-1.s3.amazonaws.com",))
    assert found == Signed("AKIAIOSFODNN7EXAMPLE", UNSIGNED, None)


@given(
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    value=st.text("aä b", min_size=1, max_size=9),
)
def test_what_botocore_signs_is_believed_whatever_the_key(key: str, value: str) -> None:
    parameters = f"?versionId=null&response-content-type={quote(value)}&marker=unsigned"
    url = f"https://s3.example/bucket/{quote(key, safe='/~')}{parameters}"
    assert believed(head_of("GET", presigned(url), {})).access_key == KEY
    assert believed(signed("GET", url, {"x-amz-meta-b": "  two   spaces", "x-amz-meta-a": "1"})).access_key == KEY


def test_a_bucket_in_front_of_the_host_is_signed_as_if_in_the_path() -> None:
    assert believed(signed("GET", "https://own.s3.example/key?acl", auth_path="/own/key"))
    assert refused(signed("GET", "https://own.s3.example/key?acl", auth_path="/other/key")) == "SignatureDoesNotMatch"


def test_what_was_changed_after_signing_does_not_match() -> None:
    url = presigned("https://s3.example/b/k?versionId=null", headers={"x-amz-meta-a": "1", "Content-Type": "text/own"})
    sent = {"Content-Type": "text/own"}
    assert believed(head_of("GET", url, sent))
    for changed, headers in (
        (url.replace("/b/k", "/b/l"), sent),
        (url.replace("versionId=null", "versionId=other"), sent),
        (url + "&uploadId=1", sent),
        (url + "&response-content-type=text/html", sent),
        (url.replace("x-amz-meta-a=1", "x-amz-meta-a=2"), sent),
        (url.replace("Expires=", "Expires=1"), sent),
        (url, {"Content-Type": "text/other"}),
        (url, {}),
        (url, {**sent, "Content-MD5": "x"}),
        (url, {**sent, "x-amz-copy-source": "b/secret"}),
        (url.replace("Signature=", "Signature=%E6%9D%B1"), sent),
    ):
        assert refused(head_of("GET", changed, headers)) in ("SignatureDoesNotMatch", "AccessDenied"), changed
    assert refused(head_of("PUT", url, sent)) == "SignatureDoesNotMatch"


def test_a_url_does_what_its_signer_put_into_it_and_nothing_else() -> None:
    source = "x-amz-copy-source"
    url = presigned(
        "https://s3.example/b/copy", method="PUT", headers={source: "/b/allowed", "x-amz-meta-a": "b \u00e0"}
    )
    for sent in ({}, {source: "/b/allowed"}):
        head = head_of("PUT", url, sent)
        assert believed(head)
        assert read_request(head).action is Action.COPY_OBJECT
        assert (head.headers[source], head.headers["x-amz-meta-a"]) == (
            "/b/allowed",
            "b \u00e0".encode().decode("latin-1"),
        )
    assert refused(head_of("PUT", url, {source: "/b/secret"})) == "InvalidArgument"
    for more in ("X-Amz-Copy-Source=/b/secret", f"{source}=/b/secret"):
        assert refused(head_of("PUT", f"{url}&{more}", {})) == "InvalidArgument"
        assert refused(head_of("PUT", url.replace("?", f"?{more}&"), {})) == "InvalidArgument"


@pytest.mark.parametrize(
    "parameter", ["x-amz-a%0Ax-amz-b=1", "x-amz-a%3A1=2", "x-amz-a=1%0Ax-amz-b:2", "x-amz-a=%7F", "x-amz-%C3%A9=1"]
)
def test_a_parameter_that_cannot_be_a_header_is_refused(parameter: str) -> None:
    assert refused(head_of("GET", f"{presigned('https://s3.example/b/k')}&{parameter}", {})) == "InvalidArgument"


def test_a_url_lives_as_long_as_it_says_and_at_most_as_one_of_version_4() -> None:
    now_s = time.time()
    head = head_of("GET", presigned("https://s3.example/b/k"), {})
    assert believed(head, now_s + 590)
    assert refused(head, now_s + 610) == "AccessDenied"
    assert believed(head_of("GET", presigned("https://s3.example/b/k", expires_s=WEEK_S), {}), now_s)
    assert refused(head_of("GET", presigned("https://s3.example/b/k", expires_s=2 * WEEK_S), {})) == "AccessDenied"
    for expires in ("", "-1", "x", "٣", "9" * 30):
        target = f"/b/k?AWSAccessKeyId={KEY}&Signature=b&Expires={quote(expires)}"
        assert refused(wire_head(b"GET", target.encode(), [])) == "AccessDenied"


def test_the_clock_of_who_signs_headers_is_about_ours() -> None:
    now_s = time.time()
    head = signed("GET", "https://s3.example/b/k")
    assert believed(head, now_s + 890)
    assert refused(head, now_s + 910) == refused(head, now_s - 910) == "RequestTimeTooSkewed"
    for date in ("yesterday", "Tue, 07 Jul 1950 21:53:04 GMT"):
        assert refused(replace(head, headers={**head.headers, "date": date})) == "AccessDenied"
        assert refused(replace(head, headers={**head.headers, "x-amz-date": date})) == "AccessDenied"
    assert refused(replace(head, headers={**head.headers, "x-amz-date": ""})) == "AccessDenied"


def with_header(head: Head, **headers: Any) -> Head:
    return replace(head, headers={**head.headers, **{name.replace("_", "-"): value for name, value in headers.items()}})


def test_each_way_to_be_wrong_has_a_code() -> None:
    head = signed("GET", "https://s3.example/b/k")
    assert refused(with_header(head, authorization="AWS nonsense")) == "InvalidArgument"
    assert refused(with_header(head, authorization="AWS MFOTHER:x")) == "InvalidAccessKeyId"
    assert refused(with_header(head, authorization=f"AWS {KEY}:東京")) == "SignatureDoesNotMatch"
    assert refused(with_header(head, x_amz_security_token="t")) == "InvalidToken"
    assert refused(with_header(head, x_amz_content_sha256="short")) == "InvalidArgument"
    chunks = with_header(head, x_amz_content_sha256="STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
    assert refused(chunks) == "InvalidRequest"
    both = head_of("GET", presigned("https://s3.example/b/k"), {"Authorization": head.headers["authorization"]})
    assert refused(both) == "InvalidArgument"


@pytest.mark.parametrize("name", ["attributes", "encryption", "publicAccessBlock", "retention"])
def test_what_the_signature_does_not_cover_is_not_done(name: str) -> None:
    url = presigned("https://s3.example/b/k")
    assert refused(head_of("GET", f"{url}&{name}", {})) == "InvalidRequest"


def test_a_body_in_chunks_is_told_by_its_headers() -> None:
    head = signed("PUT", "https://s3.example/b/k", {"x-amz-decoded-content-length": "5"})
    assert believed(head) == Signed(KEY, STREAMING_UNSIGNED_TRAILER, None)


def test_a_request_with_a_signature_of_version_4_is_none_of_version_2() -> None:
    url = presigned("https://s3.example/b/k")
    assert not is_signed_so(head_of("GET", f"{url}&X-Amz-Algorithm=AWS4-HMAC-SHA256", {}))
    assert not is_signed_so(head_of("GET", "https://s3.example/b/k", {"Authorization": "AWS4-HMAC-SHA256 x"}))
