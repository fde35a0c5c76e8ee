"""What the S3 store makes of answers that real servers give rarely, or should not give."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from s3_stub import Answer, Stub, content, listing, serving

from monofs import __version__
from monofs.model.errors import MonofsError, UfsBadBody, UfsChanged, UfsDenied, UfsFailed, UfsOption, UfsUnreachable
from monofs.observe.tracing import tracing
from monofs.ufs.base import ANYTHING, UnderStorage, may_be_done
from monofs.ufs.registry import SECRET_OPTIONS, check_options, open_ufs
from monofs.ufs.s3_errors import Where, read_refusal, refusal_error
from monofs.ufs.s3_listing import Listed, read_list_page
from monofs.ufs.s3_requests import S3Requests
from monofs.ufs.s3_settings import Keys, read_settings

DATE = "Fri, 02 Jan 2026 03:04:05 GMT"


def opened(stub: Stub, uri: str = "s3://bucket", **options: str) -> UnderStorage:
    return open_ufs(uri, {"endpoint": stub.endpoint, "access_key": "k", "secret_key": "s", **options}, timeout_s=5)


def virtual_object(size: int, etag: str = '"tag"') -> Callable[[str, dict[str, str]], Answer]:
    """Answers ranged GETs of an object whose byte i is i % 251, of any size."""

    def answer(path: str, headers: dict[str, str]) -> Answer:
        first, last = (int(number) for number in headers["range"].removeprefix("bytes=").split("-"))
        last = min(last, size - 1)
        if first >= size:
            return 416, {}, b"<Error><Code>InvalidRange</Code></Error>"
        body = bytes(number % 251 for number in range(first, last + 1))
        shown = {"Content-Range": f"bytes {first}-{last}/{size}", "Last-Modified": DATE}
        return 206, {**shown, "ETag": etag} if etag else shown, body

    return answer


# ---- listings -----------------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_utf8_is_listed_odd_and_read_exactly(stub: Stub) -> None:
    stub.answer = lambda path, headers: (200, {}, listing(content("bad%FFname"), content("fine")))
    page = opened(stub).list(b"")
    assert ([entry.name for entry in page.entries], page.odd) == ([b"fine"], [b"bad\xffname"])
    stub.answer = virtual_object(10)
    assert b"".join(opened(stub).read(b"bad\xffname", 2, 3, "e:tag")) == bytes([2, 3, 4])
    assert stub.asked[-1][0] == "/bucket/bad%FFname"


def test_fields_are_found_in_any_order_and_spacing(stub: Stub) -> None:
    body = (
        b"<ListBucketResult>\n <IsTruncated>false</IsTruncated>\n <Contents>\n  <Size>7</Size>\n  <Owner><ID>me</ID></Owner>\n"
        b"  <ETag>&#34;abc-2&#34;</ETag>\n  <LastModified>2026-01-02T03:04:05Z</LastModified>\n  <Key>a&amp;b &lt;c&gt;</Key>\n </Contents>\n"
        b"<CommonPrefixes> <Prefix>d/</Prefix><Prefix>e/</Prefix> </CommonPrefixes></ListBucketResult>\n"
    )
    time_ns = int(dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC).timestamp()) * 10**9
    assert read_list_page(body).items == [
        Listed(b"a&b <c>", 7, time_ns, "abc-2"),
        Listed(b"d/", 0, 0, None),
        Listed(b"e/", 0, 0, None),
    ]


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("a+b", b"a b"),
        ("a%20b", b"a b"),
        ("a%2Bb", b"a+b"),
        ("it&apos;s", b"it's"),
        ("%26amp%3B", b"&amp;"),
        ("%00%0A", b"\0\n"),
    ],
)
def test_keys_in_url_encoding_are_decoded_as_each_server_writes_them(written: str, key: bytes) -> None:
    assert read_list_page(listing(content(written))).items[0].key == key


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        listing(content("a"))[:-5],
        listing(content("a")).replace(b"<Size>1", b"<Size>x"),
        listing(content("a")).replace(b"<Key>", b"<Kee>"),
        listing(content("a", time="yesterday")),
        listing(content("a", time="2026-01-02T03:04:05")),
        listing(cut=True),
        b"<Error><Code>X</Code></Error>",
    ],
)
def test_what_is_not_a_complete_listing_is_a_bad_body(body: bytes) -> None:
    with pytest.raises(UfsBadBody):
        read_list_page(body)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_of_listings_fail_otherwise(noise: bytes) -> None:
    for body in (
        noise,
        listing(content("a")).replace(b"tag", noise),
        listing(content("a")).replace(b">a<", b">" + noise + b"<"),
    ):
        try:
            read_list_page(body)
        except UfsBadBody:
            pass


def test_a_server_that_repeats_a_directory_already_listed_is_passed(stub: Stub) -> None:
    """Some servers answer start-after=d/ with d/ again, as keys inside it lie beyond."""

    def answer(path: str, headers: dict[str, str]) -> Answer:
        query = parse_qs(urlsplit(path).query)
        most = int(query["max-keys"][0])
        names = ["d/", "e/", "f/"]
        after = unquote_to_bytes(path.partition("start-after=")[2].partition("&")[0]).decode().rstrip("\U0010ffff")
        left = [name for name in names if name >= after]
        return 200, {}, listing(prefixes=tuple(left[:most]), cut=len(left) > most)

    stub.answer = answer
    store, found, after = opened(stub), [], b""
    while True:
        page = store.list(b"", after=after, limit=1)
        found += [entry.name for entry in page.entries]
        if page.next is None:
            break
        after = page.next
    assert found == [b"d", b"e", b"f"]


def test_a_listing_that_never_goes_on_is_a_bad_body(stub: Stub) -> None:
    stub.answer = lambda path, headers: (200, {}, listing(content("same"), cut=True))
    with pytest.raises(UfsBadBody, match="does not go on"):
        opened(stub).list(b"", after=b"same", limit=1)


def test_a_listing_with_keys_of_another_prefix_is_a_bad_body(stub: Stub) -> None:
    stub.answer = lambda path, headers: (200, {}, listing(content("other")))
    with pytest.raises(UfsBadBody, match="another prefix"):
        opened(stub).list(b"dir")


def test_an_endless_listing_is_cut_off(stub: Stub) -> None:
    stub.answer = lambda path, headers: (200, {}, bytes(17 << 20))
    with pytest.raises(UfsBadBody, match="more than"):
        opened(stub).list(b"")


# ---- objects ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
@pytest.mark.parametrize("offset", [0, (1 << 31) - 1, (1 << 32) - 1, 5 << 30, 6_999_999_990, 6_999_999_999])
def test_ranges_beyond_5_gb_are_exact(stub: Stub, key: bytes, offset: int) -> None:
    stub.answer = virtual_object(7_000_000_000)
    end = min(offset + 20, 7_000_000_000)
    got = b"".join(opened(stub).read(key, offset, 20, "e:tag"))
    assert got == bytes(number % 251 for number in range(offset, end))
    assert stub.asked[-1][1]["range"] == f"bytes={offset}-{offset + 19}"
    assert stub.asked[-1][1]["if-match"] == '"tag"'


@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_an_object_without_a_strong_etag_is_known_by_size_and_time(stub: Stub, key: bytes, etag: str) -> None:
    shown = key.decode()
    stub.answer = lambda path, headers: (200, {}, listing(content(shown, 10, etag.replace('"', "&quot;"))))
    file, _ = opened(stub).status(key)
    assert file is not None
    assert file.fingerprint == f"t:10:{file.mtime_ns // 10**9 * 10**9}:0:0"
    stub.answer = virtual_object(10, etag)
    assert len(b"".join(opened(stub).read(key, 0, 10, file.fingerprint))) == 10
    assert "if-match" not in stub.asked[-1][1]
    stub.answer = virtual_object(11, etag)
    with pytest.raises(UfsChanged):
        next(opened(stub).read(key, 0, 10, file.fingerprint))


@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
def test_a_server_that_ignores_the_range_is_a_bad_body(stub: Stub, key: bytes) -> None:
    stub.answer = lambda path, headers: (200, {"ETag": '"tag"', "Last-Modified": DATE}, b"whole")
    with pytest.raises(UfsBadBody, match="range"):
        next(opened(stub).read(key, 0, 3, "e:tag"))


@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
def test_a_body_longer_than_the_range_gives_no_byte_too_many(stub: Stub, key: bytes) -> None:
    headers = {"ETag": '"tag"', "Last-Modified": DATE, "Content-Range": "bytes 0-2/10"}
    stub.answer = lambda path, given: (206, headers, b"0123456789")
    got = b""
    with pytest.raises(UfsBadBody):
        for view in opened(stub).read(key, 0, 3, "e:tag"):
            got += view
    assert len(got) <= 3


@pytest.mark.parametrize("key", [b"plain", b"odd//key"])
def test_no_secret_is_in_a_message_even_when_the_server_echoes_it(stub: Stub, key: bytes) -> None:
    body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message><StringToSign>hush</StringToSign></Error>"
    stub.answer = lambda path, headers: (403, {}, body)
    for call in (lambda store: store.list(b""), lambda store: next(store.read(key, 0, 1, "e:x"))):
        with pytest.raises(MonofsError) as caught:
            call(opened(stub, secret_key="hush"))
        assert "hush" not in f"{caught.value} {caught.value.detail}"


@pytest.mark.parametrize(("code", "passes"), [("InvalidObjectState", True), ("AccessDenied", False)])
def test_a_check_passes_when_the_first_object_is_archived_but_not_when_it_may_not_be_read(
    stub: Stub, code: str, passes: bool
) -> None:
    def answer(path: str, headers: dict[str, str]) -> Answer:
        if "list-type" in path:
            return 200, {}, listing(content("empty", 0), content("first", 10))
        return 403, {}, f"<Error><Code>{code}</Code></Error>".encode()

    stub.answer = answer
    if passes:
        opened(stub).check()
    else:
        with pytest.raises(UfsDenied, match="s3://bucket/first"):
            opened(stub).check()
    assert stub.asked[-1][0] == "/bucket/first"


def test_requests_name_us(stub: Stub) -> None:
    stub.answer = virtual_object(10)
    for key in (b"plain", b"odd//key"):
        list(opened(stub).read(key, 0, 1, "e:tag"))
    assert all(headers["user-agent"].startswith("monofs/") for _, headers in stub.asked)


def test_an_anonymous_mount_sends_no_signature(stub: Stub) -> None:
    stub.answer = virtual_object(10)
    store = open_ufs("s3://bucket", {"endpoint": stub.endpoint, "anonymous": "true"})
    for key in (b"plain", b"odd//key"):
        list(store.read(key, 0, 1, "e:tag"))
    assert not any("authorization" in headers for _, headers in stub.asked)


def test_a_session_token_travels_with_every_request(stub: Stub) -> None:
    stub.answer = virtual_object(10)
    for key in (b"plain", b"odd//key"):
        list(opened(stub, session_token="temporary").read(key, 0, 1, "e:tag"))
    assert [headers["x-amz-security-token"] for _, headers in stub.asked] == ["temporary"] * 2


# ---- TLS ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """The file of an authority of its own, and a server's context with a certificate of it for localhost."""
    directory = tmp_path_factory.mktemp("tls")
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "localhost")]
    now = dt.datetime.now(dt.UTC)
    for index, file in enumerate(("ca.pem", "server.pem")):
        made = (
            x509.CertificateBuilder(names[0], names[index], keys[index].public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(keys[0], hashes.SHA256())
        )
        (directory / file).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "key.pem").write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, *form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "key.pem")
    return directory / "ca.pem", context


def test_tls_is_verified_unless_told_otherwise(certificate: tuple[Path, ssl.SSLContext]) -> None:
    ca_file, context = certificate
    with serving(context) as stub:
        stub.answer = virtual_object(10)
        for key in (b"plain", b"odd//key"):
            with pytest.raises(UfsUnreachable, match=r"not trusted.*option ca_file"):
                next(opened(stub).read(key, 0, 1, "e:tag"))
            assert not stub.asked
            for options in ({"ca_file": str(ca_file)}, {"verify_tls": "false"}):
                assert b"".join(opened(stub, **options).read(key, 3, 1, "e:tag")) == b"\x03"
            stub.asked.clear()


def test_more_than_the_answer_inside_one_record_of_tls_is_no_answer_to_the_next(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    ca_file, context = certificate
    with serving(context) as stub:
        extra = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "evil"\r\n\r\n'
        stub.act = lambda request: (200, {"Content-Length": "0", "ETag": '"good"'}, extra)
        store = opened(stub, ca_file=str(ca_file))
        for _ in range(2):
            assert store.put(b"key", [memoryview(b"x")], "op", ANYTHING).fingerprint == "e:good"
        assert len(stub.requests) == 2


def test_a_missing_ca_file_is_told_by_name() -> None:
    with pytest.raises(UfsOption, match=r"ca_file.*missing\.pem"):
        open_ufs("s3://bucket", {"endpoint": "https://localhost:1", "ca_file": "/missing.pem", "anonymous": "true"})


# ---- options and addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"acess_key": "x"}, "unknown option 'acess_key'.*endpoint, region, access_key"),
        ({"access_key": "x"}, "belong together"),
        ({"secret_key": "x"}, "belong together"),
        ({"session_token": "x"}, "needs access_key"),
        ({"anonymous": "true", "access_key": "x", "secret_key": "y"}, "exclude each other"),
        ({"profile": "p", "anonymous": "yes"}, "exclude each other"),
        ({"endpoint": "localhost:9000"}, "option endpoint.*http://host"),
        ({"endpoint": "http://host/path"}, "option endpoint"),
        ({"endpoint": "http://user:pw@host"}, "option endpoint"),
        ({"endpoint": "http://host:99999"}, "option endpoint"),
        ({"verify_tls": "maybe"}, "true or false"),
        ({"list_page": "0"}, "from 1 to 1000"),
        ({"list_page": "many"}, "from 1 to 1000"),
        ({"secret_key": "a\nb", "access_key": "x"}, "option secret_key: its value must not contain"),
        ({"ca_file": "/x", "verify_tls": "false"}, "contradict"),
    ],
)
def test_a_wrong_option_says_what_is_wanted(options: dict[str, str], words: str) -> None:
    with pytest.raises(UfsOption, match=words):
        check_options("s3://bucket", options)


def test_a_local_mount_knows_no_option_of_another_store() -> None:
    check_options("file:///data", {})
    with pytest.raises(UfsOption, match="knows own_file_system"):
        check_options("file:///data", {"endpoint": "http://x"})


def test_an_unknown_profile_is_told_by_name() -> None:
    with pytest.raises(UfsOption, match="no AWS profile 'nobody'"):
        open_ufs("s3://bucket", {"profile": "nobody"})


def test_secret_options_are_known() -> None:
    assert frozenset({"secret_key", "session_token"}) == SECRET_OPTIONS


@pytest.mark.parametrize(
    ("uri", "options", "base", "host_style"),
    [
        ("s3://bucket", {}, "https://bucket.s3.eu-west-1.amazonaws.com", True),
        ("s3://my.bucket", {}, "https://s3.eu-west-1.amazonaws.com", False),
        ("s3://bucket", {"region": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn", True),
        ("s3://bucket", {"endpoint": "http://Minio:9000/"}, "http://minio:9000", False),
        ("s3://bucket", {"endpoint": "https://host", "path_style": "false"}, "https://bucket.host", True),
        ("s3://bucket", {"path_style": "true"}, "https://s3.eu-west-1.amazonaws.com", False),
    ],
)
def test_the_address_follows_from_bucket_region_and_style(
    uri: str, options: dict[str, str], base: str, host_style: bool
) -> None:
    settings = read_settings(uri, {"region": "eu-west-1", **options})
    assert (settings.base, settings.host_style) == (base, host_style)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_any_success_is_one(stub: Stub, status: int) -> None:
    stub.act = lambda request: (status, {"ETag": '"made"'}, b"")
    assert opened(stub).put(b"key", [memoryview(b"x")], "op", ANYTHING).fingerprint == "e:made"


@pytest.mark.parametrize(
    ("fingerprint", "headers"),
    [
        (
            "t:1:1767323045000000000:0:0",
            {"Last-Modified": "Fri, 99 Jan 2026 03:04:05 GMT", "Content-Range": "bytes 0-0/1"},
        ),
        ("e:tag", {"ETag": '"tag"', "Content-Range": f"bytes 0-0/{'9' * 5000}"}),
    ],
)
def test_a_head_that_makes_no_sense_is_told_by_its_type(stub: Stub, fingerprint: str, headers: dict[str, str]) -> None:
    stub.answer = lambda path, asked: (206, headers, b"x")
    with pytest.raises(UfsBadBody if fingerprint == "e:tag" else UfsChanged):
        list(opened(stub).read(b"key", 0, 1, fingerprint))


def test_a_refusal_is_told_as_such_though_the_keys_cannot_be_renewed(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_settings("s3://bucket", {"endpoint": stub.endpoint})
    stub.act = lambda request: (500, {}, b"<Error><Code>InternalError</Code></Error>")
    asked = iter([Keys("k", "s", None)])

    def current(_: object) -> Keys:
        try:
            return next(asked)
        except StopIteration:
            raise UfsDenied("the AWS credential chain failed") from None

    monkeypatch.setattr(type(settings.credentials), "current", current)
    with pytest.raises(UfsFailed) as told:
        S3Requests(settings, 5).send("PUT", b"key", {}, {}, "s3://bucket/key", [b"x"])
    assert may_be_done(told.value)


# ---- errors -------------------------------------------------------------------------------------------------------------

WHERE = Where("s3://b/key", "b", "http://host", "AKIA")


@given(st.integers(300, 599), st.binary(max_size=200))
def test_every_refusal_is_one_error_of_the_family(status: int, body: bytes) -> None:
    error = refusal_error(read_refusal(status, body), WHERE)
    assert 6000 < error.code < 7000


def test_the_stores_request_id_is_kept_for_its_owner() -> None:
    refusal = read_refusal(500, b"<Error><Code>InternalError</Code><RequestId>4711</RequestId></Error>")
    assert refusal_error(refusal, WHERE).detail["request_id"] == "4711"


def test_a_store_finds_the_request_that_caused_a_listing_in_its_own_log(stub: Stub) -> None:
    stub.answer = lambda path, headers: (200, {}, listing())
    store = opened(stub)
    with tracing(0xABC):
        store.list(b"")
    store.list(b"")
    agents = [headers["user-agent"] for _, headers in stub.asked]
    assert agents == [f"monofs/{__version__} (0000000000000abc)", f"monofs/{__version__}"]
