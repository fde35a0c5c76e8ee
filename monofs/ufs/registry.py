"""Which stores there are, how their URIs are written, and how one is opened.

The normal form of a URI names one root in one way: ``s3://bucket/prefix`` (the prefix taken literally, byte for byte, never decoded)
and ``file:///dir`` (percent-encoded as RFC 8089 says; ``file://localhost/dir`` and a bare ``/dir`` mean the same).
Slashes at the end are dropped. Two URIs in normal form are equal exactly when they name the same root, symbolic links aside.
"""

from __future__ import annotations

from collections.abc import Mapping

from monofs.model.errors import UfsOption
from monofs.ufs import local, local_root, s3_settings
from monofs.ufs.base import UnderStorage
from monofs.ufs.observe import Observer
from monofs.ufs.options import Option, read_options

OPTIONS: dict[str, tuple[Option, ...]] = {"s3": s3_settings.OPTIONS, "file": local_root.OPTIONS}
"""Scheme to the options of its mounts."""

KINDS: dict[str, tuple[str, str]] = {
    "s3": ("S3, or what speaks its protocol", "s3://bucket/prefix"),
    "file": ("A directory of every master and worker", "file:///directory"),
}
"""Scheme to what a form calls such a store, and how its URI is written."""

SECRET_OPTIONS: frozenset[str] = frozenset(
    option.name for options in OPTIONS.values() for option in options if option.secret
)
"""Names of options whose values are never shown, logged or stored in clear."""


def scheme_of(uri: str) -> str:
    """The scheme of a mount's URI. Raises ``UfsOption`` naming the known ones."""
    if uri.startswith("/"):
        return "file"
    scheme, mark, _ = uri.partition("://")
    if not mark or scheme not in OPTIONS:
        raise UfsOption(f"cannot mount {uri!r}: a URI starts with one of {', '.join(f'{name}://' for name in OPTIONS)}")
    return scheme


def normal_uri(uri: str) -> str:
    """The normal form of ``uri``. Raises ``UfsOption`` saying what is wrong with it."""
    if scheme_of(uri) == "s3":
        return s3_settings.normal_uri(uri)
    return local_root.normal_uri(uri)


def check_options(uri: str, options: Mapping[str, str]) -> None:
    """Raise ``UfsOption`` unless ``uri`` and ``options`` are well-formed; asks no store."""
    scheme = scheme_of(uri)
    normal_uri(uri)
    values = read_options(scheme, OPTIONS[scheme], options)
    if scheme == "s3":
        s3_settings.check_values(values)


def open_ufs(
    uri: str, options: Mapping[str, str], *, timeout_s: float = 30.0, observe: Observer | None = None
) -> UnderStorage:
    """Open a store without asking it anything yet: call ``check`` to prove that it answers.

    ``timeout_s`` is how long it may be silent within one request. ``observe(kind, outcome, seconds, bytes)`` is called
    after every request, from the thread that made it. Raises ``UfsOption``.
    """
    check_options(uri, options)
    if scheme_of(uri) == "s3":
        from monofs.ufs.s3 import S3Store  # a quarter of what a node imports, for those that need it

        return S3Store(s3_settings.read_settings(uri, options), timeout_s=timeout_s, observe=observe)
    values = read_options("file", local_root.OPTIONS, options)
    return local.LocalStore(uri, own_file_system=values["own_file_system"], observe=observe)


def learned_options(uri: str) -> dict[str, str]:
    """Options to keep with a mount because of how its root is found now, where the user gives none; blocking."""
    return local_root.learned_options(uri) if scheme_of(uri) == "file" else {}
