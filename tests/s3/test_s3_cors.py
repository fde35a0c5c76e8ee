"""Pages of other origins: a bucket's rules, preflights, and what goes along with answers."""

from __future__ import annotations

from typing import Any

import pytest
from s3_endpoints import Endpoint, Reply, path_of

RULES = [
    {"AllowedMethods": ["GET"], "AllowedOrigins": ["*.get"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 60},
    {
        "AllowedMethods": ["PUT", "POST"],
        "AllowedOrigins": ["http://*.put"],
        "AllowedHeaders": ["x-amz-*"],
        "ID": "writers",
    },
]


@pytest.fixture(scope="module")
def ruled(endpoint: Endpoint) -> str:
    """A bucket with these rules."""
    name = endpoint.make_bucket()
    endpoint.client.put_bucket_cors(Bucket=name, CORSConfiguration={"CORSRules": RULES})
    return name


def preflight(endpoint: Endpoint, target: str, origin: str, method: str, wanted: str = "") -> Reply:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    if wanted:
        headers["Access-Control-Request-Headers"] = wanted
    return endpoint.send("OPTIONS", target, headers.items())


def told(answer: Reply) -> tuple[str | None, str | None]:
    return answer.headers.get("access-control-allow-origin"), answer.headers.get("access-control-allow-methods")


def test_rules_are_kept_replaced_and_removed(endpoint: Endpoint, fresh: str) -> None:
    client: Any = endpoint.client
    target = path_of(fresh, query="cors")
    assert endpoint.raw("GET", target).told == (404, "NoSuchCORSConfiguration")
    client.put_bucket_cors(Bucket=fresh, CORSConfiguration={"CORSRules": RULES})
    assert client.get_bucket_cors(Bucket=fresh)["CORSRules"] == RULES
    client.put_bucket_cors(Bucket=fresh, CORSConfiguration={"CORSRules": RULES[:1]})
    assert client.get_bucket_cors(Bucket=fresh)["CORSRules"] == RULES[:1]
    assert endpoint.raw("DELETE", target).status == 204
    assert endpoint.raw("GET", target).told == (404, "NoSuchCORSConfiguration")
    assert preflight(endpoint, path_of(fresh, "key"), "a.get", "GET").status == 403


def test_tags_and_rules_of_a_bucket_stay_apart(endpoint: Endpoint, fresh: str) -> None:
    client: Any = endpoint.client
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    client.put_bucket_cors(Bucket=fresh, CORSConfiguration={"CORSRules": RULES})
    client.put_bucket_tagging(Bucket=fresh, Tagging=tags)
    assert client.get_bucket_cors(Bucket=fresh)["CORSRules"] == RULES
    client.delete_bucket_cors(Bucket=fresh)
    assert client.get_bucket_tagging(Bucket=fresh)["TagSet"] == tags["TagSet"]


def test_a_preflight_is_answered_by_the_rules_and_signed_by_nobody(endpoint: Endpoint, ruled: str, key: str) -> None:
    for target in (path_of(ruled, key), f"/{ruled}"):
        answer = preflight(endpoint, target, "a.get", "GET")
        assert (answer.status, *told(answer)) == (200, "a.get", "GET")
        assert answer.headers["access-control-max-age"] == "60"
        assert answer.headers["access-control-expose-headers"] == "ETag"
        answer = preflight(endpoint, target, "http://a.put", "PUT", "x-amz-date,x-amz-acl")
        assert (answer.status, told(answer)[0]) == (200, "http://a.put")
        assert {each.strip() for each in answer.headers["access-control-allow-headers"].split(",")} == {
            "x-amz-date",
            "x-amz-acl",
        }
        for origin, method, wanted in (
            ("a.put", "PUT", ""),
            ("a.get", "PUT", ""),
            ("a.get.b", "GET", ""),
            ("http://a.put", "PUT", "x-other"),
        ):
            assert preflight(endpoint, target, origin, method, wanted).status == 403, (origin, method)


def test_a_preflight_that_does_not_say_what_comes_is_refused(endpoint: Endpoint, ruled: str, key: str) -> None:
    for headers in ({}, {"Origin": "a.get"}, {"Access-Control-Request-Method": "GET"}):
        assert endpoint.send("OPTIONS", path_of(ruled, key), headers.items()).status == 400


def test_no_rules_and_no_bucket_allow_nothing(endpoint: Endpoint, bucket: str, key: str) -> None:
    for target in (path_of(bucket, key), f"/{endpoint.new_name('missing')}"):
        assert preflight(endpoint, target, "a.get", "GET").status in (403, 404)


def test_what_is_allowed_goes_along_with_every_answer(endpoint: Endpoint, ruled: str, key: str) -> None:
    target, origin = path_of(ruled, key), {"Origin": "a.get"}
    endpoint.raw("PUT", target, body=b"x")
    answer = endpoint.raw("GET", target, headers=origin)
    assert (answer.body, *told(answer)) == (b"x", "a.get", "GET")
    assert "Origin" in answer.headers["vary"]
    assert told(endpoint.raw("GET", path_of(ruled, f"{key}-missing"), headers=origin)) == ("a.get", "GET")
    assert told(endpoint.raw("GET", f"/{ruled}", headers=origin)) == ("a.get", "GET")
    for other in (endpoint.raw("GET", target, headers={"Origin": "other"}), endpoint.raw("GET", target)):
        assert (other.status, *told(other)) == (200, None, None)
    assert told(endpoint.raw("PUT", target, headers=origin, body=b"y")) == (None, None)


def test_what_is_allowed_goes_along_with_refusals_too(endpoint: Endpoint, ruled: str, key: str) -> None:
    for more in ({"signed": False}, {"secret_key": "wrong"}):
        answer = endpoint.raw("GET", path_of(ruled, key), headers={"Origin": "a.get"}, **more)
        assert (answer.status, *told(answer)) == (403, "a.get", "GET")


def test_a_page_uses_a_presigned_url(endpoint: Endpoint, ruled: str, key: str) -> None:
    client = endpoint.make_client(signature_version="s3v4")
    url = client.generate_presigned_url("put_object", {"Bucket": ruled, "Key": key})
    client.close()
    target = url.removeprefix(endpoint.url)
    assert preflight(endpoint, target, "http://a.put", "PUT").status == 200
    answer = endpoint.send("PUT", target, [("Origin", "http://a.put")], b"from a page")
    assert (answer.status, told(answer)[0]) == (200, "http://a.put")


def test_rules_that_are_none_are_refused(endpoint: Endpoint, bucket: str) -> None:
    rule = "<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>{}</AllowedMethod></CORSRule></CORSConfiguration>"
    target = path_of(bucket, query="cors")
    assert endpoint.raw("PUT", target, body=b"<CORS").told == (400, "MalformedXML")
    assert endpoint.raw("PUT", target, body=rule.format("PATCH").encode()).status == 400
