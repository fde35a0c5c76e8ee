"""`/api/v1` about stores and their mounts: which kinds there are and how a form of each looks, whether what is typed would do, and what mounts are used for.

Invariant: what an option is stands in one place, the store's own table (ufs/registry.py): forms are made of it and checked by it. A secret's value is never told. Not here: adding and changing (cluster_api.py).
"""

from __future__ import annotations

from typing import Any

import msgspec

from monofs.model.errors import InvalidArgument, MonofsError, UfsOption
from monofs.model.paths import format_path, parse_path
from monofs.model.principal import Right
from monofs.observe.metrics import BYTE_KINDS, STORE_ANSWERS
from monofs.ufs.options import Option, Whole, flag
from monofs.ufs.registry import KINDS, OPTIONS, SECRET_OPTIONS, check_options, normal_uri, scheme_of
from monofs.web.routes import Routes
from monofs.web.viewers import Viewer

ANSWER_S = 2.5
"""How long a worker may take to tell its counters; all of them together, twice as long."""
MISSING_SHOWN = 20


class StoreOption(msgspec.Struct):
    """An option. ``kind``: text, boolean, or integer within ``least`` and ``most``."""

    name: str
    doc: str
    default: str
    kind: str
    secret: bool
    least: int | None = None
    most: int | None = None


class StoreKind(msgspec.Struct):
    """A kind of store; ``example``: how its URIs are written."""

    title: str
    example: str
    options: list[StoreOption]


class StoreCheck(msgspec.Struct, forbid_unknown_fields=True):
    """What is typed so far. ``kind``: the scheme chosen. ``secrets``: names of secret options that have a value, which need not be sent. ``new``: nothing may be mounted at ``path`` yet."""

    kind: str
    path: str
    uri: str
    options: dict[str, str] = {}
    secrets: list[str] = []
    new: bool = True


class StoreChecked(msgspec.Struct):
    """``problems``: what is wrong, by field: path, uri, an option's name, or '' for several of them together. ``uri``: its normal form."""

    problems: dict[str, str]
    uri: str = ""


class MountUse(msgspec.Struct):
    """What a mount was used for, by all live workers since each began: growing numbers, unless a worker goes. ``requests`` to the store of any kind, ``failed``
    of them, and ``seconds`` they took in all."""

    hits: float = 0
    misses: float = 0
    store_read_bytes: float = 0
    store_written_bytes: float = 0
    descriptor_bytes: float = 0
    requests: float = 0
    failed: float = 0
    seconds: float = 0
    stale_served: float = 0


class MountsUse(msgspec.Struct):
    """By mount path. ``missing``: the first of the workers that did not answer, of which there are ``unanswered``."""

    mounts: dict[str, MountUse]
    missing: list[str]
    unanswered: int = 0


def store_kinds(_: Viewer) -> dict[str, StoreKind]:
    """Kinds of stores by the scheme of their URIs, with the options of each."""
    return {
        scheme: StoreKind(*KINDS[scheme], [_option(each) for each in options]) for scheme, options in OPTIONS.items()
    }


def _option(option: Option) -> StoreOption:
    shown = StoreOption(option.name, option.doc, option.default, "text", option.secret)
    if option.read is flag:
        shown.kind = "boolean"
    elif isinstance(option.read, Whole):
        shown.kind, shown.least, shown.most = "integer", option.read.least, option.read.most
    return shown


def store_check(viewer: Viewer, body: StoreCheck) -> StoreChecked:
    """Whether a mount as it is typed is well-formed; no store is asked."""
    checked = StoreChecked({})
    try:
        path = format_path(parse_path(body.path))
        if body.new and any(mount.path == path for mount in viewer.fs.mount_list()):
            checked.problems["path"] = f"something is mounted at {path} already"
    except MonofsError as error:
        checked.problems["path"] = error.message
    if body.kind not in KINDS:
        raise InvalidArgument(f"a store is one of {', '.join(KINDS)}, not {body.kind[:100]!r}")
    try:
        if scheme_of(body.uri) != body.kind:
            raise UfsOption(f"this is not an address of a {body.kind}:// store: write it as {KINDS[body.kind][1]}")
        checked.uri = normal_uri(body.uri)
    except MonofsError as error:
        checked.problems["uri"] = error.message
    options = {name: text for name, text in body.options.items() if text}
    options |= {name: "set" for name in body.secrets if name in SECRET_OPTIONS}
    try:
        check_options(KINDS[body.kind][1], options)  # an example: what is wrong with the address is said already
    except MonofsError as error:
        checked.problems[str(error.detail.get("option", ""))] = error.message
    return checked


def mount_use(viewer: Viewer) -> MountsUse:
    """What mounts are used for: hits, misses, bytes, and how their stores answer."""
    mounts = {str(mount.id): mount for mount in viewer.fs.mount_list()}
    found = {number: MountUse() for number in mounts}
    missing = []
    for address, answer in viewer.fs.worker_status(only_live=True, timeout_s=ANSWER_S).items():
        if isinstance(answer, MonofsError):
            missing.append(address)
        else:
            _add(found, answer.counters)
    for (
        number,
        mount,
    ) in mounts.items():  # what masters ask of stores, which the counters of a worker in the same process show too
        for name in ("requests", "failed", "seconds"):
            setattr(found[number], name, getattr(found[number], name) + mount.asked.get(name, 0.0))
    uses = {mounts[number].path: use for number, use in found.items()}
    return MountsUse(uses, missing[:MISSING_SHOWN], len(missing))


_FIELDS = {
    "monofs_page_hits": "hits",
    "monofs_page_misses": "misses",
    "monofs_store_read_bytes": "store_read_bytes",
    "monofs_store_written_bytes": "store_written_bytes",
    "monofs_descriptor_bytes": "descriptor_bytes",
    "monofs_stale_served": "stale_served",
    "monofs_store_requests": "requests",
    "monofs_store_seconds_sum": "seconds",
}


def _add(found: dict[str, MountUse], counters: dict[str, float]) -> None:
    """Add one worker's counters to the mounts they are labelled with."""
    for key, value in counters.items():
        name, _, inner = key.rstrip("}").partition("{")
        field = _FIELDS.get(name)
        if field is None:
            continue
        labels: dict[str, Any] = dict(pair.split("=", 1) for pair in inner.split(",") if "=" in pair)
        use = found.get(labels.get("mount", ""))
        if use is None or ("kind" in labels and labels["kind"] not in BYTE_KINDS):
            continue
        setattr(use, field, getattr(use, field) + value)
        if field == "requests" and labels.get("outcome") not in STORE_ANSWERS:
            use.failed += value


def add_routes(routes: Routes) -> None:
    """All of these."""
    routes.add("GET", "/stores/kinds", store_kinds, Right.READ, dict[str, StoreKind])
    routes.add("POST", "/stores/check", store_check, Right.READ, StoreChecked, body=StoreCheck)
    routes.add("GET", "/mounts/use", mount_use, Right.READ, MountsUse, asks="workers")
