"""Which pages of other origins may use a bucket from within browsers: its rules, read, shown, and applied. Pure.

API Reference, PutBucketCors and CORSRule; the Fetch standard for what browsers ask and heed. A rule never opens anything: it lets a page see the answer to what
its user may do anyway. Invariant: what is answered names the origin that asked, or ``*`` where the rule says so, and nothing that no rule allows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from xml.etree.ElementTree import Element

from monofs.gateways.http_head import Header
from monofs.gateways.s3.errors import S3Error
from monofs.gateways.s3.head import Head
from monofs.gateways.s3.xml import HEAD, NAMESPACE, escape, find, find_all, parse

CORS_MAX_BYTES = 64 << 10
RULES_MAX = 100
ID_MAX = 255
WANTED_MAX = 200
"""Names in Access-Control-Request-Headers: anybody may ask, and each is held against each of every rule."""
METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD"})

_ORIGIN = re.compile(r"[!-~]{1,253}\Z").match
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}\Z").match
_VARY = (b"Vary", b"Origin, Access-Control-Request-Headers, Access-Control-Request-Method")


class Rule(NamedTuple):
    """One CORSRule. ``headers`` are in lower case; ``max_age_s`` is -1 where none is given."""

    identifier: str
    methods: tuple[str, ...]
    origins: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age_s: int


def read_rules(body: bytes) -> list[Rule]:
    """The rules of PutBucketCors. Raises ``S3Error``: MalformedXML, InvalidRequest."""
    root = parse(body, "CORSConfiguration", CORS_MAX_BYTES, 10_000)
    rules = [_read_rule(each) for each in find_all(root, "CORSRule")]
    if not 1 <= len(rules) <= RULES_MAX:
        raise S3Error("MalformedXML", f"A CORSConfiguration has 1 to {RULES_MAX} rules, not {len(rules)}.")
    return rules


def rules_document(rules: Sequence[Rule]) -> str:
    """GetBucketCors; what is kept of them, too."""
    return f"{HEAD}<CORSConfiguration{NAMESPACE}>{''.join(map(_shown, rules))}</CORSConfiguration>"


@lru_cache(maxsize=256)
def kept_rules(document: str) -> tuple[Rule, ...]:
    """Those of a document that was kept."""
    return tuple(read_rules(document.encode())) if document else ()


def allow(rules: Sequence[Rule], head: Head) -> list[Header] | None:
    """What is answered beside the answer to a request with an Origin, or to a preflight (OPTIONS); None: no rule allows it.

    Raises ``S3Error`` (BadRequest) for a preflight that does not say what is to come, or says too much.
    """
    headers, is_preflight = head.headers, head.method == "OPTIONS"
    origin, method = headers.get("origin"), headers.get("access-control-request-method")
    if origin is None or (is_preflight and method is None):
        raise S3Error("BadRequest", "A preflight needs Origin and Access-Control-Request-Method.")
    text = headers.get("access-control-request-headers", "") if is_preflight else ""
    wanted = [name.strip().lower() for name in text.split(",") if name.strip()]
    if len(wanted) > WANTED_MAX:
        raise S3Error("BadRequest", f"A preflight may name {WANTED_MAX} headers.")
    for rule in rules:
        pattern = next((each for each in rule.origins if _fits(each, origin)), None)
        if pattern is None or (method or head.method) not in rule.methods:
            continue
        if all(any(_fits(each, name) for each in rule.headers) for name in wanted):
            return _told(rule, "*" if pattern == "*" else origin, wanted)
    return None


def _told(rule: Rule, origin: str, wanted: Sequence[str]) -> list[Header]:
    told = [("Allow-Origin", origin), ("Allow-Methods", ", ".join(rule.methods))]
    if origin != "*":
        told.append(("Allow-Credentials", "true"))
    if wanted:
        told.append(("Allow-Headers", ", ".join(wanted)))
    if rule.exposed:
        told.append(("Expose-Headers", ", ".join(rule.exposed)))
    if rule.max_age_s >= 0:
        told.append(("Max-Age", str(rule.max_age_s)))
    return [*((f"Access-Control-{name}".encode(), value.encode("latin-1")) for name, value in told), _VARY]


def _fits(pattern: str, text: str) -> bool:
    """``pattern`` has at most one asterisk, which stands for anything."""
    before, star, after = pattern.partition("*")
    if not star:
        return text == pattern
    return len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)


def _read_rule(element: Element) -> Rule:
    def texts(name: str) -> tuple[str, ...]:
        return tuple((each.text or "").strip() for each in find_all(element, name))

    identifier, age = find(element, "ID") or "", (find(element, "MaxAgeSeconds") or "").strip()
    methods, origins = texts("AllowedMethod"), texts("AllowedOrigin")
    headers, exposed = texts("AllowedHeader"), texts("ExposeHeader")
    if not methods or not origins:
        raise S3Error("MalformedXML", "A CORSRule needs an AllowedMethod and an AllowedOrigin.")
    if not METHODS.issuperset(methods):
        raise S3Error("InvalidRequest", f"AllowedMethod can be {', '.join(sorted(METHODS))}.")
    if not all(_ORIGIN(each) and each.count("*") < 2 for each in origins):
        raise S3Error("InvalidRequest", "An AllowedOrigin is an origin with at most one asterisk.")
    if not all(_HEADER(each) and each.count("*") < 2 for each in headers):
        raise S3Error("InvalidRequest", "An AllowedHeader is the name of a header with at most one asterisk.")
    if not all(_HEADER(each) and "*" not in each for each in exposed):
        raise S3Error("InvalidRequest", "An ExposeHeader is the name of a header.")
    if len(identifier) > ID_MAX or (age and not (age.isascii() and age.isdigit() and len(age) < 10)):
        raise S3Error("MalformedXML", f"An ID has at most {ID_MAX} characters, and MaxAgeSeconds is a number from 0.")
    return Rule(identifier, methods, origins, tuple(map(str.lower, headers)), exposed, int(age or -1))


def _shown(rule: Rule) -> str:
    lines = [("ID", [rule.identifier] if rule.identifier else []), ("AllowedHeader", rule.headers)]
    lines += [("AllowedMethod", rule.methods), ("AllowedOrigin", rule.origins), ("ExposeHeader", rule.exposed)]
    lines.append(("MaxAgeSeconds", [str(rule.max_age_s)] if rule.max_age_s >= 0 else []))
    told = "".join(f"<{name}>{escape(value)}</{name}>" for name, values in lines for value in values)
    return f"<CORSRule>{told}</CORSRule>"
