"""ListObjects, ListObjectsV2, ListObjectVersions: prefixes, delimiters, starts, pages, encodings, order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from s3_endpoints import Endpoint, path_of

KEYS = [
    "a.txt",
    "a/1",
    "a/2",
    "a/b/1",
    "a/b/2",
    "a0",
    "b",
    "c-d/x",
    "c/1",
    "c/2",
    "d|1",
    "d|2",
    "e/f/g/h",
    "z",
]


_tops = count(1)


@pytest.fixture(scope="session")
def listed(endpoint: Endpoint) -> str:
    """A bucket with ``KEYS``."""
    name = endpoint.make_bucket()
    for key in KEYS:
        endpoint.client.put_object(Bucket=name, Key=key, Body=key.encode())
    return name


def expect(keys: list[str], prefix: str = "", delimiter: str = "", after: str = "") -> list[str]:
    """Keys and common prefixes in the order S3 tells them, by its definition: of the keys behind ``after``; behind a common prefix is behind all that
    begins with it."""
    found: list[str] = []
    for key in sorted(keys, key=str.encode):
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        told = key if at < 0 else key[: at + len(delimiter)]
        if key.encode() <= after.encode() or (at >= 0 and after == told):
            continue
        if told not in found:
            found.append(told)
    return found


def told(answer: dict[str, Any]) -> tuple[list[str], list[str]]:
    return (
        [each["Key"] for each in answer.get("Contents", [])],
        [each["Prefix"] for each in answer.get("CommonPrefixes", [])],
    )


def split(expected: list[str], case: dict[str, str]) -> tuple[list[str], list[str]]:
    """Keys and common prefixes apart."""
    delimiter, begins = case.get("Delimiter", ""), len(case.get("Prefix", ""))
    common = [each for each in expected if delimiter and delimiter in each[begins:]]
    return [each for each in expected if each not in common], common


CASES = [
    {},
    {"Prefix": "a"},
    {"Prefix": "a/"},
    {"Prefix": "a/b/"},
    {"Prefix": "a/b/1"},
    {"Prefix": "nothing"},
    {"Prefix": "/"},
    {"Prefix": "a//"},
    {"Delimiter": "/"},
    {"Delimiter": "/", "Prefix": "a"},
    {"Delimiter": "/", "Prefix": "a/"},
    {"Delimiter": "/", "Prefix": "a/b"},
    {"Delimiter": "/", "Prefix": "e"},
    {"Delimiter": "/", "Prefix": "e/"},
    {"Delimiter": "/", "Prefix": "e/f/g/"},
    {"Delimiter": "|"},
    {"Delimiter": "|", "Prefix": "d"},
    {"Delimiter": "a"},
    {"Delimiter": "/1"},
    {"Delimiter": "b/", "Prefix": "a/"},
    {"Delimiter": "nowhere"},
    {"Delimiter": ""},
    {"Prefix": ""},
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_a_listing_tells_what_begins_with_a_prefix_up_to_a_delimiter(
    endpoint: Endpoint, listed: str, case: dict[str, str]
) -> None:
    expected = expect(KEYS, case.get("Prefix", ""), case.get("Delimiter", ""))
    for ask in (endpoint.client.list_objects, endpoint.client.list_objects_v2):
        answer = ask(Bucket=listed, **case)
        assert told(answer) == split(expected, case)
        assert (answer["IsTruncated"], answer["Name"]) == (False, listed)
        assert answer.get("Prefix", "") == case.get("Prefix", "")
    assert answer["KeyCount"] == len(expected)
    versions = endpoint.client.list_object_versions(Bucket=listed, **case)
    found = [each["Key"] for each in versions.get("Versions", [])]
    assert (found, told(versions)[1]) == split(expected, case)


@pytest.mark.parametrize(
    "after", ["", "a", "a.txt", "a/", "a/1", "a/2", "a/b/1", "a/b/zzz", "a0", "c", "c/1", "zz", "\U0001f98a"]
)
@pytest.mark.parametrize("delimiter", ["", "/"])
def test_a_listing_begins_behind_a_key(endpoint: Endpoint, listed: str, delimiter: str, after: str) -> None:
    expected = split(expect(KEYS, "", delimiter, after), {"Delimiter": delimiter})
    second = endpoint.client.list_objects_v2(Bucket=listed, StartAfter=after, Delimiter=delimiter)
    assert told(second) == expected
    first = endpoint.client.list_objects(Bucket=listed, Marker=after, Delimiter=delimiter)
    assert told(first) == expected


@pytest.mark.parametrize("most", [1, 2, 5, 14])
@pytest.mark.parametrize(
    "case",
    [{}, {"Delimiter": "/"}, {"Prefix": "a"}, {"Delimiter": "/", "Prefix": "a/"}, {"Delimiter": "|"}],
    ids=range(5),
)
def test_pages_tell_everything_once(endpoint: Endpoint, listed: str, case: dict[str, str], most: int) -> None:
    expected = expect(KEYS, case.get("Prefix", ""), case.get("Delimiter", ""))
    for name in ("list_objects", "list_objects_v2", "list_object_versions"):
        pages = endpoint.client.get_paginator(name).paginate(Bucket=listed, PaginationConfig={"PageSize": most}, **case)
        found: list[str] = []
        for page in pages:
            entries = [each["Key"] for each in page.get("Contents", page.get("Versions", []))]
            both = entries + [each["Prefix"] for each in page.get("CommonPrefixes", [])]
            assert len(both) <= most
            assert len(both) == most or not page["IsTruncated"]
            found += sorted(both, key=str.encode)
        assert found == expected, name


def test_a_page_may_be_of_nothing(endpoint: Endpoint, listed: str) -> None:
    for ask in (endpoint.client.list_objects, endpoint.client.list_objects_v2):
        answer = ask(Bucket=listed, MaxKeys=0)
        assert (told(answer), answer["IsTruncated"], answer["MaxKeys"]) == (([], []), False, 0)


def test_a_page_has_at_most_a_thousand(endpoint: Endpoint, listed: str) -> None:
    answer = endpoint.client.list_objects_v2(Bucket=listed, MaxKeys=5000)
    assert (answer["MaxKeys"], len(answer["Contents"])) == (1000, len(KEYS))
    assert endpoint.client.list_objects_v2(Bucket=listed)["MaxKeys"] == 1000


@pytest.mark.parametrize("most", ["-1", "x", "1.5", "99999999999999999999"])
def test_a_number_of_keys_that_is_none_is_refused(endpoint: Endpoint, listed: str, most: str) -> None:
    for kind in ("", "list-type=2&", "versions&"):
        assert endpoint.raw("GET", path_of(listed, query=f"{kind}max-keys={most}")).told == (400, "InvalidArgument")


def test_a_listing_says_of_each_object_what_head_says(endpoint: Endpoint, listed: str) -> None:
    entry = endpoint.client.list_objects_v2(Bucket=listed, Prefix="a/b/1")["Contents"][0]
    head = endpoint.client.head_object(Bucket=listed, Key="a/b/1")
    assert (entry["ETag"], entry["Size"], entry["StorageClass"]) == (head["ETag"], head["ContentLength"], "STANDARD")
    assert int(entry["LastModified"].timestamp()) == int(head["LastModified"].timestamp())
    assert "Owner" not in entry
    owned = endpoint.client.list_objects_v2(Bucket=listed, Prefix="a/b/1", FetchOwner=True)["Contents"][0]
    assert owned["Owner"]["ID"]
    assert endpoint.client.list_objects(Bucket=listed, Prefix="a/b/1")["Contents"][0]["Owner"] == owned["Owner"]


def test_a_version_of_each_object_is_the_latest_and_null(endpoint: Endpoint, listed: str) -> None:
    answer = endpoint.client.list_object_versions(Bucket=listed)
    assert {(each["VersionId"], each["IsLatest"]) for each in answer["Versions"]} == {("null", True)}
    assert "DeleteMarkers" not in answer


def test_versions_go_on_behind_a_key(endpoint: Endpoint, listed: str) -> None:
    answer = endpoint.client.list_object_versions(Bucket=listed, KeyMarker="c/1")
    assert [each["Key"] for each in answer["Versions"]] == expect(KEYS, after="c/1")
    answer = endpoint.raw("GET", path_of(listed, query="versions&version-id-marker=null"))
    assert answer.told == (400, "InvalidArgument")


def test_what_a_listing_was_asked_is_told(endpoint: Endpoint, listed: str) -> None:
    one = endpoint.raw("GET", path_of(listed, query="prefix=a&delimiter=%2F&marker=a&max-keys=7")).document
    assert [one.findtext(name) for name in ("Name", "Prefix", "Marker", "MaxKeys", "Delimiter", "IsTruncated")] == [
        listed, "a", "a", "7", "/", "false",
    ]  # fmt: skip
    two = endpoint.raw("GET", path_of(listed, query="list-type=2&start-after=a&max-keys=1")).document
    assert [two.findtext(name) for name in ("StartAfter", "MaxKeys", "KeyCount", "IsTruncated")] == [
        "a",
        "1",
        "1",
        "true",
    ]
    assert two.findtext("NextContinuationToken")
    assert two.findtext("Marker") is None


def test_a_first_listing_says_where_it_ends_with_a_delimiter(endpoint: Endpoint, listed: str) -> None:
    answer = endpoint.client.list_objects(Bucket=listed, Delimiter="/", MaxKeys=2)
    assert (told(answer), answer["NextMarker"]) == ((["a.txt"], ["a/"]), "a/")


def test_a_token_outweighs_a_start(endpoint: Endpoint, listed: str) -> None:
    token = endpoint.client.list_objects_v2(Bucket=listed, MaxKeys=3)["NextContinuationToken"]
    answer = endpoint.client.list_objects_v2(Bucket=listed, ContinuationToken=token, StartAfter="z")
    assert told(answer)[0] == sorted(KEYS)[3:]
    assert answer["ContinuationToken"] == token


def test_a_token_that_is_none_is_refused(endpoint: Endpoint, listed: str) -> None:
    answer = endpoint.raw("GET", path_of(listed, query="list-type=2&continuation-token=nonsense"))
    assert answer.told == (400, "InvalidArgument")


def test_an_empty_token_is_the_beginning(endpoint: Endpoint, listed: str) -> None:
    page = endpoint.client.list_objects_v2(Bucket=listed, ContinuationToken="")
    assert (page["ContinuationToken"], told(page)) == ("", told(endpoint.client.list_objects_v2(Bucket=listed)))


@pytest.mark.parametrize("query", ["list-type=1", "encoding-type=base64"])
def test_a_parameter_that_is_none_is_refused(endpoint: Endpoint, listed: str, query: str) -> None:
    assert endpoint.raw("GET", path_of(listed, query=query)).told == (400, "InvalidArgument")


def test_an_empty_bucket_lists_nothing(endpoint: Endpoint, fresh: str) -> None:
    for ask in (endpoint.client.list_objects, endpoint.client.list_objects_v2):
        assert (told(ask(Bucket=fresh)), ask(Bucket=fresh)["IsTruncated"]) == (([], []), False)
    assert "Versions" not in endpoint.client.list_object_versions(Bucket=fresh)


# ---- characters and order ---------------------------------------------------------------------------------------------------------

ODD = [
    "a b",
    "a%b",
    "a+b",
    "a&b",
    "a<b>",
    'a"b',
    "a?b",
    "a#b",
    "é",
    "日本",
    "🦊",
    "\ufffd",
    "~x",
    "*",
    "a\\b",
    "a\tb",
    "a\nb",
    "A",
    "_",
]


@pytest.fixture(scope="session")
def odd(endpoint: Endpoint) -> str:
    """A bucket with ``ODD`` keys."""
    name = endpoint.make_bucket()
    for key in ODD:
        endpoint.client.put_object(Bucket=name, Key=key, Body=b"")
    return name


def test_keys_come_in_the_order_of_their_bytes(endpoint: Endpoint, odd: str) -> None:
    for ask in (endpoint.client.list_objects, endpoint.client.list_objects_v2):
        assert told(ask(Bucket=odd))[0] == sorted(ODD, key=str.encode)


def test_keys_are_percent_encoded_where_asked(endpoint: Endpoint, odd: str) -> None:
    for kind in ("", "list-type=2&", "versions&"):
        answer = endpoint.raw("GET", path_of(odd, query=f"{kind}encoding-type=url"))
        assert answer.text("EncodingType") == "url"
        found = [each.text or "" for each in answer.document.iter("Key")]
        assert [unquote_plus(each) for each in found] == sorted(ODD, key=str.encode)
        assert all(each.isascii() for each in found)


def test_prefix_and_start_are_percent_encoded_where_asked(endpoint: Endpoint, odd: str) -> None:
    answer = endpoint.raw(
        "GET", path_of(odd, query="list-type=2&encoding-type=url&prefix=a%20&delimiter=%25&start-after=%C3%A9")
    )
    found = [unquote_plus(answer.text(name) or "") for name in ("Prefix", "Delimiter", "StartAfter")]
    assert found == ["a ", "%", "é"]
    assert answer.text("StartAfter") == "%C3%A9"


def test_a_marker_of_odd_characters_is_one(endpoint: Endpoint, odd: str) -> None:
    keys = sorted(ODD, key=str.encode)
    for number, key in enumerate(keys):
        answer = endpoint.raw(
            "GET", path_of(odd, query=f"list-type=2&encoding-type=url&max-keys=1&start-after={quote(key, safe='')}")
        )
        assert [unquote_plus(each.text or "") for each in answer.document.iter("Key")] == keys[number + 1 : number + 2]


@pytest.fixture(scope="session")
def tangled(endpoint: Endpoint) -> tuple[str, list[str]]:
    """A bucket of keys whose order as paths is another than as strings: ``a-``, ``a/``, ``a0``, ..."""
    name = endpoint.make_bucket()
    keys = [
        f"{one}{two}{three}" for one in "ab" for two in ("", "!", "-", "0", "é") for three in ("/x", "/x-/y", "/x/y/z")
    ]
    keys = sorted(set(keys) | {"a!", "a-", "a0"} - {"a"})
    keys = [key for key in keys if not any(other.startswith(f"{key}/") for other in keys)]
    for key in keys:
        endpoint.client.put_object(Bucket=name, Key=key, Body=b"")
    return name, keys


@settings(max_examples=20)
@given(
    prefix=some.sampled_from(["", "a", "a/", "a-", "b", "b/x", "b/x/", "c"]),
    delimiter=some.sampled_from(["", "/", "-", "x", "-/", "é"]),
    after=some.one_of(some.just(""), some.text("ab!-0/xyzé", max_size=4)),
    most=some.integers(1, 12),
)
def test_any_listing_is_as_defined(
    endpoint: Endpoint, tangled: tuple[str, list[str]], prefix: str, delimiter: str, after: str, most: int
) -> None:
    name, keys = tangled
    expected = expect(keys, prefix, delimiter, after)
    query = f"list-type=2&max-keys={most}&prefix={quote(prefix, safe='')}&delimiter={quote(delimiter, safe='')}"
    found, more = [], f"&start-after={quote(after, safe='')}" if after else ""
    for _ in range(len(keys) + 1):
        reply = endpoint.raw("GET", path_of(name, query=query + more))
        assert reply.status == 200, reply.body
        answer = reply.document
        page = [each.text or "" for each in answer.iter("Key")]
        page += [each.findtext("Prefix") or "" for each in answer.iter("CommonPrefixes")]
        found += sorted(page, key=str.encode)
        if answer.findtext("IsTruncated") == "false":
            break
        more = f"&continuation-token={quote(answer.findtext('NextContinuationToken') or '', safe='')}"
    assert found == expected


def test_a_thousand_and_more_keys_come_in_pages(endpoint: Endpoint, fresh: str) -> None:
    if endpoint.name not in ("monofs", "radosgw"):
        pytest.skip("as many puts in a store say nothing new")
    keys = [f"k{number:04}" for number in range(1001)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda key: endpoint.client.put_object(Bucket=fresh, Key=key), keys))
    answer = endpoint.client.list_objects_v2(Bucket=fresh, MaxKeys=5000)
    assert (told(answer)[0], answer["IsTruncated"]) == (keys[:1000], True)
    rest = endpoint.client.list_objects_v2(Bucket=fresh, ContinuationToken=answer["NextContinuationToken"])
    assert (told(rest)[0], rest["IsTruncated"]) == (keys[1000:], False)
    doomed = {"Objects": [{"Key": key} for key in keys[:1000]], "Quiet": True}
    assert "Errors" not in endpoint.client.delete_objects(Bucket=fresh, Delete=doomed)
    assert told(endpoint.client.list_objects_v2(Bucket=fresh))[0] == keys[1000:]


def test_a_listing_knows_a_write_and_a_deletion_at_once(endpoint: Endpoint, fresh: str) -> None:
    for number in range(5):
        endpoint.raw("PUT", path_of(fresh, f"d/{number}"), body=b"x")
        assert len(endpoint.client.list_objects_v2(Bucket=fresh)["Contents"]) == number + 1
    for number in range(5):
        endpoint.raw("DELETE", path_of(fresh, f"d/{number}"))
        assert len(endpoint.client.list_objects_v2(Bucket=fresh).get("Contents", [])) == 4 - number
    assert told(endpoint.client.list_objects_v2(Bucket=fresh, Delimiter="/")) == ([], [])


COMING = ["a", "d/a", "d/s/b", "d/s/t/", "d/s/t/c", "d/s/u/v/w", "e/"]


@settings(max_examples=15)
@given(changed=some.lists(some.sampled_from(COMING), min_size=1, max_size=14))
@example(changed=["d/a", "d/s/b", "d/s/t/c", "d/s/t/c", "d/s/b", "d/a"])
@example(changed=["d/s/t/", "d/s/t/c", "d/s/t/c", "d/s/t/"])
@example(changed=["d/s/t/c", "d/s/b", "d/s/t/c", "d/s/b", "d/s/b", "d/s/b"])
def test_a_common_prefix_comes_and_goes_with_the_keys_it_stands_for(
    endpoint: Endpoint, bucket: str, changed: list[str]
) -> None:
    top, there = f"coming-{next(_tops)}/", set[str]()
    for key in changed:
        if key in there:
            endpoint.client.delete_object(Bucket=bucket, Key=top + key)
        else:
            endpoint.client.put_object(Bucket=bucket, Key=top + key)
        there ^= {key}
        for prefix in ("", "d/", "d/s/"):
            case = {"Prefix": top + prefix, "Delimiter": "/"}
            expected = expect([top + each for each in there], **{name.lower(): each for name, each in case.items()})
            assert told(endpoint.client.list_objects_v2(Bucket=bucket, **case)) == split(expected, case), there
    assert (top in told(endpoint.client.list_objects_v2(Bucket=bucket, Delimiter="/"))[1]) == bool(there)
