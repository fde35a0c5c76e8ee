"""Sizes and durations as people type them."""

from __future__ import annotations

import re

from monofs.model.errors import ConfigError

_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtTpP]?)(i?)([bB]?)\s*$")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION = re.compile(r"^\s*(-?[0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|min|h|d|)\s*$")
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|d)\s*")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str) -> int:
    """``"64MiB"``, ``"64M"`` (both binary), ``"1.5GB"`` (decimal when written with B and no i) or plain bytes.

    Raises ``ConfigError``.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write bytes or a number with KiB, MiB, GiB or TiB")
    number, prefix, binary, unit = match.groups()
    base = 1000 if unit and prefix and not binary else 1024
    return int(float(number) * base ** _POWERS[prefix.lower()])


def parse_duration_s(text: str) -> float:
    """``"5m"``, ``"1.5h"``, ``"250ms"``, ``"1d12h"``, plain seconds, or ``-1``. Raises ``ConfigError``."""
    match = _DURATION.match(text)
    if match is not None:
        return float(match.group(1)) * _SECONDS[match.group(2)]
    seconds, position = 0.0, 0
    while (part := _PART.match(text, position)) is not None:
        seconds += float(part.group(1)) * _SECONDS[part.group(2)]
        position = part.end()
    if position < len(text) or not text:
        raise ConfigError(f"{text!r} is not a duration: write seconds or a number with ms, s, m, h or d, as in 1d12h")
    return seconds


def format_bytes(number: float) -> str:
    """``1536`` → ``1.5 KiB``: at most one decimal, binary units."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
