"""Signatures: what botocore and AWS's own examples sign is believed, and nothing else."""

from __future__ import annotations

import hashlib
import io
import time
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from signed_requests import KEY, SECRET, client, head_of, secret_of, sign, wire_head

from monofs.gateways.s3 import signing
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.head import Head
from monofs.gateways.s3.signing import STREAMING_UNSIGNED_TRAILER, authenticate
from monofs.model import sigv4
from monofs.model.sigv4 import EMPTY_SHA256, UNSIGNED

ODD_KEYS = [
    "plain",
    "a//b",
    "/leading",
    "trailing/",
    "Köln/東京/🎈",
    "a+b c%20d%",
    "~tilde=equals&and?question#hash",
    "./..//.",
    "colon:semi;comma,quote'\"",
    "new\nline\ttab",
]
EXAMPLE_KEY, EXAMPLE_SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EXAMPLE_TIME_S = 1369353600.0
"""2013-05-24, that of AWS's examples."""


def example(method: str, target: str, signature: str, names: str, **headers: str) -> Head:
    scope = f"{EXAMPLE_KEY}/20130524/us-east-1/s3/aws4_request"
    fields = {
        "Host": "examplebucket.s3.amazonaws.com",
        "x-amz-date": "20130524T000000Z",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope},SignedHeaders={names},Signature={signature}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return wire_head(method.encode(), target.encode(), [(k.encode(), v.encode()) for k, v in fields.items()])


AWS_EXAMPLES = [
    example(
        "GET",
        "/test.txt",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        "host;range;x-amz-content-sha256;x-amz-date",
        range="bytes=0-9",
        x_amz_content_sha256=EMPTY_SHA256,
    ),
    example(
        "PUT",
        "/test%24file.text",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        date="Fri, 24 May 2013 00:00:00 GMT",
        x_amz_storage_class="REDUCED_REDUNDANCY",
        x_amz_content_sha256=hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
    ),
    example(
        "GET",
        "/?lifecycle",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        "host;x-amz-content-sha256;x-amz-date",
        x_amz_content_sha256=EMPTY_SHA256,
    ),
    example(
        "GET",
        "/?max-keys=2&prefix=J",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        "host;x-amz-content-sha256;x-amz-date",
        x_amz_content_sha256=EMPTY_SHA256,
    ),
    wire_head(
        b"GET",
        b"/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        b"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        b"&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
        [(b"Host", b"examplebucket.s3.amazonaws.com")],
    ),
]


@pytest.mark.parametrize("head", AWS_EXAMPLES)
def test_the_examples_of_the_documentation_are_believed(head):
    signed = authenticate(head, {EXAMPLE_KEY: EXAMPLE_SECRET}.get, EXAMPLE_TIME_S)
    assert signed is not None
    assert signed.access_key == EXAMPLE_KEY


@pytest.mark.parametrize("style", ["path", "virtual"])
@pytest.mark.parametrize("key", ODD_KEYS)
def test_what_boto3_sends_for_an_odd_key_is_believed(key, style):
    s3, sent = client(style=style)
    s3.get_object(Bucket="bucket", Key=key, Range="bytes=0-9")
    s3.head_object(Bucket="bucket", Key=key)
    s3.list_objects_v2(Bucket="bucket", Prefix=key, StartAfter=key, Delimiter="/")
    s3.put_object(
        Bucket="bucket", Key=key, Body=b"hello", Metadata={"a": "two  spaces", "b": ""}, ContentType="text/x y"
    )
    s3.delete_object(Bucket="bucket", Key=key)
    s3.upload_part(Bucket="bucket", Key=key, PartNumber=3, UploadId="a+b/c=", Body=b"part")
    s3.copy_object(Bucket="bucket", Key=key, CopySource={"Bucket": "bucket", "Key": key})
    s3.put_object(Bucket="bucket", Key=key, Body=io.BytesIO(b"streamed"), ChecksumAlgorithm="CRC32")
    for request in sent:
        signed = authenticate(request.head, secret_of, time.time())
        assert signed is not None
        assert signed.access_key == KEY
    assert sent[-1].head.headers["x-amz-content-sha256"] == STREAMING_UNSIGNED_TRAILER


@pytest.mark.parametrize("key", ODD_KEYS)
def test_what_boto3_presigns_for_an_odd_key_is_believed(key):
    s3, _ = client()
    for action, more in (
        ("get_object", {"ResponseContentType": "text/plain; a=b"}),
        ("put_object", {"ContentType": "x/y"}),
    ):
        url = s3.generate_presigned_url(action, {"Bucket": "bucket", "Key": key, **more}, ExpiresIn=60)
        method = "GET" if action == "get_object" else "PUT"
        signed = authenticate(head_of(method, url, {"content-type": "x/y"}), secret_of, time.time())
        assert signed is not None
        assert signed.payload == UNSIGNED


def test_repeated_headers_and_query_names_and_missing_values_are_part_of_the_signature():
    url = "https://s3.example/bucket/key?x=2&acl&x=1&y=&a-b=1&a=2&X=0"
    head = sign(
        "GET", url, [("x-amz-meta-a", "1"), ("x-amz-meta-a", "2  3"), ("x-amz-meta-b", ""), ("X-Amz-Meta-C", " c ")]
    )
    assert authenticate(head, secret_of, time.time()) is not None
    assert head.headers["x-amz-meta-a"] == "1,2  3"
    assert head.pairs.count(("x", "1")) == 1
    assert refused(replace(head, pairs=[pair for pair in head.pairs if pair != ("x", "1")])) == "SignatureDoesNotMatch"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@settings(max_examples=80)
@given(
    TEXT,
    st.dictionaries(TEXT, TEXT, max_size=4),
    st.lists(HEADER, max_size=3),
    st.sampled_from(["us-east-1", "x"]),
    st.data(),
)
def test_any_signed_request_is_believed_and_no_altered_one_is(key, query, values, region, data):
    url = f"https://s3.example/bucket/{quote(key, safe='/-._~')}"
    if query:
        url += "?" + "&".join(
            f"{quote(name, safe='-._~')}={quote(value, safe='-._~')}" for name, value in query.items()
        )
    head = sign("GET", url, [("x-amz-meta-v", value) for value in values], region=region)
    now_s = time.time()
    signed = authenticate(head, secret_of, now_s)
    assert signed is not None
    assert signed.access_key == KEY
    altered = data.draw(
        st.sampled_from(
            [
                replace(head, method="PUT"),
                replace(head, path=head.path + "x"),
                replace(head, pairs=[*head.pairs, ("new", "1")]),
                replace(head, headers={**head.headers, "host": "other"}),
                replace(head, headers={**head.headers, "x-amz-content-sha256": EMPTY_SHA256}),
                replace(head, headers={**head.headers, "x-amz-copy-source": "secret/file"}),
                replace(head, headers={**head.headers, "authorization": head.headers["authorization"][:-1] + "g"}),
            ]
        )
    )
    with pytest.raises(S3Error) as caught:
        authenticate(altered, secret_of, now_s)
    assert caught.value.code in ("SignatureDoesNotMatch", "AccessDenied")


def refused(head: Head, *, now_s: float | None = None, **secrets: str) -> str:
    with pytest.raises(S3Error) as caught:
        authenticate(
            head, {KEY: SECRET, **secrets}.get if secrets else secret_of, time.time() if now_s is None else now_s
        )
    return caught.value.code


def plain(**headers: str) -> Head:
    """A request as botocore signs it, with headers put in afterwards; ``None`` takes one out."""
    head = sign("GET", "https://s3.example/bucket/key", [])
    changed = {**head.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return replace(head, headers={name: value for name, value in changed.items() if value is not None})


def test_a_request_without_any_signature_is_anonymous():
    assert authenticate(plain(authorization=None), secret_of, 0.0) is None
    assert authenticate(plain(authorization=""), secret_of, 0.0) is None


def test_each_way_to_be_wrong_has_the_code_aws_gives_it():
    now_s = time.time()
    good = plain().headers["authorization"]
    assert refused(plain(), now_s=now_s + 910) == "RequestTimeTooSkewed"
    assert refused(plain(), now_s=now_s - 902) == "RequestTimeTooSkewed"
    with pytest.raises(S3Error, match=r"clock is 3[56]\d\d s ahead of this server's; 900 s are allowed"):
        authenticate(plain(), secret_of, now_s - 3600)
    assert authenticate(plain(), secret_of, now_s + 890) is not None
    assert refused(plain(authorization=good.replace(KEY, "MFOTHER"))) == "InvalidAccessKeyId"
    assert refused(plain(authorization="AWS key:signature")) == "InvalidRequest"
    assert refused(plain(authorization="AWS4-ECDSA-P256-SHA256 Credential=x")) == "InvalidRequest"
    assert refused(plain(authorization="AWS nonsense")) == refused(plain(authorization="Bearer x")) == "InvalidArgument"
    assert refused(plain(authorization=good.split(", Signature")[0])) == "AuthorizationHeaderMalformed"
    assert refused(plain(authorization=good.replace("/s3/", "/ec2/"))) == "AuthorizationHeaderMalformed"
    assert refused(plain(x_amz_date="20130524T000000Z")) == "AuthorizationHeaderMalformed"
    assert refused(plain(x_amz_date=None)) == "AccessDenied"
    assert refused(plain(x_amz_date="yesterday")) == "AccessDenied"
    assert refused(plain(x_amz_content_sha256=None, content_length="5")) == "MissingSecurityHeader"
    assert refused(plain(x_amz_content_sha256=None, transfer_encoding="chunked")) == "MissingSecurityHeader"
    assert refused(plain(x_amz_content_sha256="short")) == "InvalidArgument"
    assert refused(plain(x_amz_security_token="token")) == "InvalidToken"
    assert refused(plain(authorization=good.replace("host;", ""))) == "AccessDenied"


def test_a_request_without_a_body_may_leave_out_that_it_has_none():
    head = plain(x_amz_content_sha256=None)
    scope = head.headers["authorization"].partition("Credential=")[2].partition(",")[0].partition("/")[2]
    lines = f"host:s3.example\nx-amz-date:{head.headers['x-amz-date']}\n\nhost;x-amz-date\n{EMPTY_SHA256}"
    digest = hashlib.sha256(f"GET\n/bucket/key\n\n{lines}".encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{head.headers['x-amz-date']}\n{scope}\n{digest}"
    key = sigv4.day_key(SECRET, scope[:8], "us-east-1")
    signature = key.digest(to_sign.encode()).hex()
    text = f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
    signed = authenticate(replace(head, headers={**head.headers, "authorization": text}), secret_of, time.time())
    assert signed is not None
    assert signed.payload == EMPTY_SHA256


def test_a_mismatch_shows_what_was_to_be_signed_and_nothing_of_the_secret():
    with pytest.raises(S3Error) as caught:
        authenticate(plain(host="other"), secret_of, time.time())
    assert str(caught.value.elements["CanonicalRequest"]).startswith("GET\n/bucket/key\n\nhost:other\n")
    assert SECRET not in repr(vars(caught.value))


def presigned(**changes: str | None) -> Head:
    """A presigned request whose parameters were changed or taken out."""
    s3, _ = client()
    head = head_of("GET", s3.generate_presigned_url("get_object", {"Bucket": "b", "Key": "k"}, ExpiresIn=600), {})
    pairs = {**dict(head.pairs), **{f"X-Amz-{name}": value for name, value in changes.items()}}
    return replace(head, pairs=[(name, value) for name, value in pairs.items() if value is not None])


def test_a_presigned_url_ends_when_it_says_and_begins_not_much_before_it_was_made():
    now_s = time.time()
    assert authenticate(presigned(), secret_of, now_s) is not None
    assert authenticate(presigned(), secret_of, now_s + 590) is not None
    assert refused(presigned(), now_s=now_s + 610) == "AccessDenied"
    assert refused(presigned(), now_s=now_s - 902) == "AccessDenied"


def url_with(query: str, **headers: str) -> Head:
    """A URL to PUT that signs these parameters too, and a request with it."""
    request = AWSRequest(method="PUT", url=f"http://localhost:1/b/k?{query}")
    S3SigV4QueryAuth(Credentials(KEY, SECRET), "s3", "us-east-1", expires=60).add_auth(request)
    return head_of("PUT", request.url, headers)


def test_what_a_url_has_of_amazons_headers_are_headers_but_checksums():
    head = url_with(
        "x-amz-meta-a=%C3%A9+1&X-Amz-Acl=private&x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32"
    )
    assert authenticate(head, secret_of, time.time()) is not None
    assert {name: value for name, value in head.headers.items() if name.startswith("x-amz")} == {
        "x-amz-meta-a": "é 1".encode().decode("latin-1"),
        "x-amz-acl": "private",
    }
    assert refused(url_with("x-amz-meta-a=%0d%0ab:c")) == "InvalidArgument"
    assert refused(url_with("x-amz-meta-a%20b=c")) == "InvalidArgument"
    assert refused(url_with("x-amz-meta-a=1&X-Amz-Meta-A=2")) == "InvalidArgument"
    assert refused(url_with("x-amz-meta-a=1", **{"x-amz-meta-a": "1"})) == "AccessDenied"


def test_a_url_with_a_sha256_that_is_none_does_not_match_any_body():
    for head in (url_with("X-Amz-Content-Sha256=x"), url_with("", **{"x-amz-content-sha256": "x"})):
        assert refused(head) == "XAmzContentSHA256Mismatch"


def test_each_way_for_a_presigned_url_to_be_wrong_has_the_code_aws_gives_it():
    wrong = "AuthorizationQueryParametersError"
    for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"):
        assert refused(presigned(**{name: None})) == wrong
    for expires in ("0", "604801", "-1", "x", "", "٣", "99999999999999999999"):
        assert refused(presigned(Expires=expires)) == wrong
    assert refused(presigned(Expires="604800")) == "SignatureDoesNotMatch"
    assert refused(presigned(Date="20130524T000000Z")) == wrong
    assert refused(presigned(Date="now")) == wrong
    assert refused(presigned(SignedHeaders="")) == "AccessDenied"
    assert refused(presigned(SignedHeaders="host;東京")) == "AccessDenied"
    assert refused(presigned(Signature="東京")) == "SignatureDoesNotMatch"
    both = presigned()
    assert refused(replace(both, headers={**both.headers, "authorization": "AWS4-HMAC-SHA256 x"})) == "InvalidArgument"
    old = wire_head(b"GET", b"/b/k?AWSAccessKeyId=a&Signature=b&Expires=1", [])
    assert refused(old) == "InvalidRequest"


def test_keys_of_days_are_kept_in_bounded_number():
    sigv4.day_key.cache_clear()
    for day in range(sigv4.DAY_KEYS_MAX + 100):
        sigv4.day_key("secret", str(day), "r")
    assert sigv4.day_key.cache_info().currsize == sigv4.DAY_KEYS_MAX


SCOPE = "20130524/r/s3/aws4_request"


@pytest.mark.parametrize(
    ("credential", "names", "date"),
    [
        ("k" * 250 + "{}/" + SCOPE, "host", "20130524T000000Z"),
        (f"{KEY}/20130524/{'r' * 250}{{}}/s3/aws4_request", "host", "20130524T000000Z"),
        (f"{KEY}/{SCOPE}", "host;a{}" + "a" * 4096, "20130524T000000Z"),
        (f"{KEY}/{SCOPE}", "host;b{}" + "".join(f";{each}" for each in range(200)), "20130524T000000Z"),
        (f"{KEY}/{SCOPE}", "host;a{};a;a", "20130524T000000Z"),
        (f"{KEY}/{SCOPE}", "host", "2" * 65 + "{}"),
        (f"{KEY}/{SCOPE},more={'a' * 9000}{{}}", "host", "20130524T000000Z"),
    ],
)
def test_nothing_long_is_kept_of_what_nobody_may_have_signed(credential, names, date):
    caches = [each for each in vars(signing).values() if hasattr(each, "cache_info")]
    for each in caches:
        each.cache_clear()
    algorithm = "AWS4-HMAC-SHA256"
    for number in range(20):
        said = {"Credential": credential.format(number), "SignedHeaders": names.format(number), "Signature": "0"}
        told = f"{algorithm} {','.join(f'{name}={value}' for name, value in said.items())}"
        by_header = {"x-amz-date": date.format(number), "Authorization": told}
        said |= {"Algorithm": algorithm, "Date": date.format(number), "Expires": "5"}
        query = "&".join(f"X-Amz-{name}={quote(value, safe='')}" for name, value in said.items())
        for head in (sent("/b/k", by_header), sent(f"/b/k?{query}", {})):
            with pytest.raises(S3Error):
                authenticate(head, secret_of, EXAMPLE_TIME_S)
    assert sum(each.cache_info().currsize for each in caches) < 10


def sent(target, fields):
    fields = {"Host": "h", **fields}
    return wire_head(b"GET", target.encode(), [(name.encode(), value.encode()) for name, value in fields.items()])


NAMES = ["authorization", "host", "x-amz-date", "date", "x-amz-content-sha256", "x-amz-security-token", "x-amz-meta-a"]
GOOD = f"AWS4-HMAC-SHA256 Credential={KEY}/20130524/us-east-1/s3/aws4_request, SignedHeaders=host, Signature={'0' * 64}"
PIECES = [
    GOOD,
    "20130524T000000Z",
    "Fri, 24 May 2013 00:00:00 +9999",
    UNSIGNED,
    EMPTY_SHA256,
    "AWS4-HMAC-SHA256",
    "=,;/ %",
    "0001-99",
]
VALUE = st.one_of(st.sampled_from(PIECES), st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")))
NOT_QUITE = (
    f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={KEY}/20130524/r/s3/aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=5"
    "&X-Amz-SignedHeaders=host&X-Amz-Signature="
)
QUERY = st.sampled_from([NOT_QUITE, "X-Amz-Algorithm&X-Amz-Signature=%ff", "X-Amz-Date=99999999T999999Z&", ""])


@settings(max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=30),
        st.builds(lambda query, more: b"/b/k?" + query.encode() + more, QUERY, st.binary(max_size=20)),
    ),
    st.lists(st.tuples(st.sampled_from(NAMES), st.lists(VALUE, min_size=1, max_size=3).map("".join)), max_size=6),
)
def test_no_bytes_make_it_fail_otherwise_than_by_an_s3_error(target, headers):
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    try:
        signed = authenticate(wire_head(b"GET", target, fields), secret_of, EXAMPLE_TIME_S)
    except S3Error:
        return
    assert signed is None
