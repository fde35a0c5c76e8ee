"""Which storage directories a worker has: the settings ``worker.tiers`` and ``worker.quota``, parsed and checked.

Pure. Tiers are listed top first; several directories may share a tier's name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from monofs.config.units import parse_bytes
from monofs.model.block import PAGE_SIZE_BYTES
from monofs.model.errors import ConfigError

TIERS_MAX = 64
_KEYS = {"name", "dir", "quota", "durable"}
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*")


class Quota(NamedTuple):
    """Either ``size_bytes`` or a ``share`` (0 < share <= 1) of what a file system has free is set; the other is 0."""

    size_bytes: int
    share: float


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One storage directory. ``quota_share`` > 0: that share of what its file system has free (plus what the cache already
    uses there), computed at open; ``quota_bytes`` is then 0. ``durable`` False: contents may be gone after a reboot; None: not said, so
    they are where the directory lies in memory. ``in_home``: it lies in the (locked) home beside its index, so no other cache can own it."""

    name: str
    directory: str
    quota_bytes: int
    durable: bool | None = None
    quota_share: float = 0.0
    in_home: bool = False


def parse_tiers(json_text: str, home: str, quota_text: str) -> list[TierSpec]:
    """Tiers of ``json_text``; when it is empty, one tier in ``<home>/worker/pages`` with ``quota_text``.

    Raises ``ConfigError`` that names the entry and the field.
    """
    if not json_text.strip():
        quota = parse_quota(quota_text, "worker.quota")
        pages = os.path.join(home, "worker", "pages")
        return [TierSpec("DISK", pages, quota.size_bytes, quota_share=quota.share, in_home=True)]
    try:
        listed = msgspec.json.decode(json_text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ConfigError(f"worker.tiers: not JSON: {error}") from None
    if not isinstance(listed, list) or not 0 < len(listed) <= TIERS_MAX:
        raise ConfigError(f"worker.tiers: must be a list of 1 to {TIERS_MAX} objects")
    specs = [_parse_tier(entry, f"worker.tiers[{position}]") for position, entry in enumerate(listed)]
    _check_apart(specs)
    return specs


def _check_apart(specs: list[TierSpec]) -> None:
    """Two caches in one directory would each count the other's files, or sweep them."""
    seen: dict[str, str] = {}
    for position, spec in enumerate(specs):
        real, where = os.path.realpath(spec.directory), f"worker.tiers[{position}].dir: {spec.directory}"
        if real in seen:
            raise ConfigError(f"{where} is listed twice")
        for other, shown in seen.items():
            inner, outer = (real, other) if len(real) > len(other) else (other, real)
            if os.path.commonpath((inner, outer)) == outer:
                raise ConfigError(
                    f"{where} lies inside of {shown}, or the other way round: give each a directory of its own"
                )
        seen[real] = spec.directory


def parse_quota(text: str | int, name: str = "quota") -> Quota:
    """``"100GiB"``, bytes, or ``"80%"``. Raises ``ConfigError`` that starts with ``name``."""
    match = _PERCENT.fullmatch(text) if isinstance(text, str) else None
    if match is not None:
        share = float(match[1]) / 100
        if not 0 < share <= 1:
            raise ConfigError(f"{name}: {text!r} must be more than 0% and at most 100%")
        return Quota(0, share)
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise ConfigError(f'{name}: must be bytes, a size such as "100GiB" or a share such as "80%"')
    try:
        size = parse_bytes(str(text))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    if not PAGE_SIZE_BYTES <= size < 1 << 62:
        raise ConfigError(f"{name}: {text!r} must be at least a page (1 MiB), or nothing fits, and less than 4 EiB")
    return Quota(size, 0.0)


def _parse_tier(entry: Any, where: str) -> TierSpec:
    if not isinstance(entry, dict):
        raise ConfigError(f'{where}: must be an object such as {{"name": "SSD", "dir": "/data", "quota": "100GiB"}}')
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(f"{where}.{key}: unknown; known are {', '.join(sorted(_KEYS))}")
    name, directory, durable = entry.get("name"), entry.get("dir"), entry.get("durable")
    if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.isprintable():
        raise ConfigError(f"{where}.name: must be a text of 1 to 64 characters")
    if not isinstance(directory, str) or "\0" in directory or not os.path.isabs(os.path.expanduser(directory)):
        raise ConfigError(f"{where}.dir: must be an absolute path")
    if durable is not None and not isinstance(durable, bool):
        raise ConfigError(f"{where}.durable: must be true or false")
    if "quota" not in entry:
        raise ConfigError(f'{where}.quota: is missing; e.g. "100GiB" or "80%"')
    quota = parse_quota(entry["quota"], f"{where}.quota")
    return TierSpec(name, os.path.expanduser(directory), quota.size_bytes, durable, quota.share)
