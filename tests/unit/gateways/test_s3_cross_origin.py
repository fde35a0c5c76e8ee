"""Rules for pages of other origins: which documents are some, and what they allow."""

from __future__ import annotations

from refusals import attempt

from monofs.gateways.s3.cors import RULES_MAX, WANTED_MAX, Rule, allow, kept_rules, read_rules, rules_document
from monofs.gateways.s3.head import Head


def document(*rules: str) -> bytes:
    return (
        f"<CORSConfiguration>{''.join(f'<CORSRule>{rule}</CORSRule>' for rule in rules)}</CORSConfiguration>".encode()
    )


def rule(*origins: str, methods: str = "GET", more: str = "") -> str:
    named = "".join(f"<AllowedOrigin>{origin}</AllowedOrigin>" for origin in origins)
    return named + "".join(f"<AllowedMethod>{method}</AllowedMethod>" for method in methods.split()) + more


def ask(rules: bytes, origin: str | None, *, method: str = "GET", **headers: str) -> dict[str, str] | None:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    fields |= {} if origin is None else {"origin": origin}
    told = allow(read_rules(rules), Head(method, "/b/k", [], fields))
    return None if told is None else {name.decode(): value.decode() for name, value in told}


def allowed(rules: bytes, origin: str, **more: str) -> str | None:
    told = ask(rules, origin, **more)
    return None if told is None else told["Access-Control-Allow-Origin"]


def test_an_origin_fits_a_pattern_with_one_asterisk() -> None:
    rules = document(rule("*suffix"), rule("start*end"), rule("prefix*"), rule("http://exact:8080"))
    for fits in ("suffix", "foo.suffix", "startend", "start12end", "prefix", "prefix.suffix", "http://exact:8080"):
        assert allowed(rules, fits) == fits
    for other in ("foo.bar", "suffix.get", "0startend", "starend", "bla.prefix", "http://exact", "Suffix", ""):
        assert allowed(rules, other) is None, other


def test_any_origin_is_told_as_such_and_gets_no_credentials() -> None:
    told = ask(document(rule("*")), "http://page")
    assert told == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "GET",
        "Vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    }
    assert (ask(document(rule("http://*")), "http://page") or {})["Access-Control-Allow-Credentials"] == "true"


def test_the_first_rule_that_fits_counts() -> None:
    rules = document(rule("*.a", methods="PUT"), rule("*", methods="GET PUT", more="<MaxAgeSeconds>5</MaxAgeSeconds>"))
    assert allowed(rules, "x.a", method="PUT") == "x.a"
    assert allowed(rules, "x.a", method="GET") == "*"
    assert allowed(rules, "x.a", method="DELETE") is None
    assert (ask(rules, "x.b", method="PUT") or {})["Access-Control-Max-Age"] == "5"


def test_a_preflight_names_method_and_headers_to_come() -> None:
    rules = document(
        rule(
            "*",
            methods="PUT",
            more="<AllowedHeader>x-amz-*</AllowedHeader><AllowedHeader>Content-Type</AllowedHeader><ExposeHeader>ETag</ExposeHeader>",
        )
    )
    asked = {"method": "OPTIONS", "access_control_request_method": "PUT"}
    told = ask(rules, "http://page", **asked, access_control_request_headers="X-Amz-Date, content-type") or {}
    assert told["Access-Control-Allow-Headers"] == "x-amz-date, content-type"
    assert told["Access-Control-Expose-Headers"] == "ETag"
    assert ask(rules, "http://page", **asked) is not None
    assert ask(rules, "http://page", **asked, access_control_request_headers="x-other") is None
    assert ask(rules, "http://page", method="OPTIONS", access_control_request_method="GET") is None
    for head in (
        Head("OPTIONS", "/b", [], {"origin": "http://page"}),
        Head("OPTIONS", "/b", [], {"access-control-request-method": "GET"}),
    ):
        assert attempt(allow, [], head) == (None, "BadRequest")


def test_rules_are_told_as_they_were_given() -> None:
    more = "<ID>one &amp; only</ID><AllowedHeader>X-A*</AllowedHeader><ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>0</MaxAgeSeconds>"
    rules = read_rules(document(rule("http://a", "http://b", methods="GET HEAD", more=more), rule("*")))
    assert rules[0] == Rule("one & only", ("GET", "HEAD"), ("http://a", "http://b"), ("x-a*",), ("ETag",), 0)
    assert list(kept_rules(rules_document(rules))) == rules
    assert kept_rules("") == ()


def test_a_preflight_names_no_more_headers_than_a_request_may_have() -> None:
    rules = read_rules(document(rule("*", more="<AllowedHeader>*</AllowedHeader>")))
    for count, code in ((WANTED_MAX, ""), (WANTED_MAX + 1, "BadRequest")):
        said = {"origin": "http://page", "access-control-request-method": "GET"}
        said["access-control-request-headers"] = ",".join(["x"] * count)
        assert attempt(allow, rules, Head("OPTIONS", "/b/k", [], said))[1] == code


def test_what_is_no_rule_is_refused() -> None:
    for body, code in (
        (b"nonsense", "MalformedXML"),
        (document(), "MalformedXML"),
        (document(*[rule("*")] * (RULES_MAX + 1)), "MalformedXML"),
        (document("<AllowedMethod>GET</AllowedMethod>"), "MalformedXML"),
        (document("<AllowedOrigin>*</AllowedOrigin>"), "MalformedXML"),
        (document(rule("*", methods="get")), "InvalidRequest"),
        (document(rule("*", methods="PATCH")), "InvalidRequest"),
        (document(rule("http://*.*")), "InvalidRequest"),
        (document(rule("a b")), "InvalidRequest"),
        (document(rule("")), "InvalidRequest"),
        (document(rule("*", more="<AllowedHeader>*a*</AllowedHeader>")), "InvalidRequest"),
        (document(rule("*", more="<AllowedHeader>a: b</AllowedHeader>")), "InvalidRequest"),
        (document(rule("*", more="<ExposeHeader>*</ExposeHeader>")), "InvalidRequest"),
        (document(rule("*", more="<MaxAgeSeconds>-1</MaxAgeSeconds>")), "MalformedXML"),
        (document(rule("*", more="<MaxAgeSeconds>soon</MaxAgeSeconds>")), "MalformedXML"),
        (document(rule("*", more=f"<ID>{'x' * 256}</ID>")), "MalformedXML"),
    ):
        assert attempt(read_rules, body)[1] == code, body[:200]
