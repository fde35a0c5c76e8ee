"""The options of an ``s3://`` mount and what they mean together: endpoint, addressing, credentials.

Pure but for :meth:`S3Credentials.current`, which may ask botocore's credential chain (files, environment, instance metadata).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from monofs.model.errors import UfsDenied, UfsOption
from monofs.ufs.options import Option, Whole, flag, read_options


def _endpoint(value: str) -> str:
    url = urlsplit(value.rstrip("/"))
    try:
        fine = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        fine = False
    if not fine or url.path or url.query or url.fragment or "@" in url.netloc:
        raise ValueError("must be http://host[:port] or https://host[:port]")
    return f"{url.scheme}://{url.netloc.lower()}"


OPTIONS: tuple[Option, ...] = (
    Option("endpoint", "URL of an S3 server other than AWS, http(s)://host[:port].", read=_endpoint),
    Option("region", "Region the bucket lies in; empty: that of the AWS profile, else us-east-1."),
    Option("access_key", "Access key id; empty: the credential chain of AWS's tools."),
    Option("secret_key", "Secret of the access key.", secret=True),
    Option("session_token", "Token of temporary credentials.", secret=True),
    Option("profile", "Profile of ~/.aws/config and ~/.aws/credentials to take credentials and region from."),
    Option("anonymous", "Send unsigned requests: for public buckets.", default="false", read=flag),
    Option(
        "path_style",
        "Write the bucket into the path, not the host name; empty: true with an endpoint, false without.",
        read=flag,
    ),
    Option("verify_tls", "Check the server's certificate.", default="true", read=flag),
    Option("ca_file", "PEM file of certificate authorities to trust besides the system's."),
    Option("list_page", "Keys asked for in one listing request.", default="1000", read=Whole(1, 1000)),
)

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")


class Keys(NamedTuple):
    """One set of credentials."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return f"Keys({self.access_key})"


@dataclass(slots=True)
class S3Credentials:
    """Where the keys of one mount come from: given, nowhere (anonymous), or the chain, asked once and refreshed by botocore."""

    anonymous: bool
    given: Keys | None
    profile: str | None
    _chain: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def current(self) -> Keys | None:
        """The keys of now; None: do not sign. Raises ``UfsDenied`` when the chain has none."""
        if self.anonymous or self.given is not None:
            return self.given
        import botocore.exceptions
        import botocore.session

        with self._lock:
            try:
                if self._chain is None:
                    self._chain = botocore.session.Session(profile=self.profile).get_credentials()
                frozen = self._chain and self._chain.get_frozen_credentials()
            except botocore.exceptions.BotoCoreError as error:
                raise UfsDenied(f"the AWS credential chain failed: {error}") from None
        if not frozen:
            raise UfsDenied(
                "no S3 credentials found: give --option access_key=... and secret_key=..., or profile=..., "
                "or anonymous=true for a public bucket"
            )
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Everything an S3 store needs to know. ``prefix`` is empty or ends with ``/``."""

    uri: str
    bucket: str
    prefix: bytes
    base: str
    """Scheme, host and port of every request."""
    host_style: bool
    """The bucket is part of the host name (else the first part of the path)."""
    endpoint: str
    """As users know it, for messages."""
    region: str
    credentials: S3Credentials
    verify_tls: bool
    ca_file: str | None
    list_page: int


def split_uri(uri: str) -> tuple[str, str]:
    """(bucket, prefix without slashes at its end). Raises ``UfsOption``."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UfsOption(
            f"cannot mount {uri!r}: write it as s3://bucket or s3://bucket/prefix, with the name of a bucket as S3 allows it"
        )
    return bucket, prefix.rstrip("/")


def normal_uri(uri: str) -> str:
    """``s3://bucket`` or ``s3://bucket/prefix``; slashes at the end are dropped, nothing else is touched."""
    bucket, prefix = split_uri(uri)
    return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"


def check_values(values: Mapping[str, Any]) -> None:
    """Raise ``UfsOption`` for options that contradict each other."""
    keys = bool(values["access_key"]), bool(values["secret_key"])
    if keys[0] != keys[1]:
        raise UfsOption("options access_key and secret_key belong together: give both or neither")
    if values["session_token"] and not keys[0]:
        raise UfsOption("option session_token needs access_key and secret_key")
    ways = {"access_key": keys[0], "profile": bool(values["profile"]), "anonymous": values["anonymous"]}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise UfsOption(f"options {' and '.join(chosen)} exclude each other: give one of them")
    if values["ca_file"] and not values["verify_tls"]:
        raise UfsOption("options ca_file and verify_tls=false contradict each other")


def read_settings(uri: str, options: Mapping[str, str]) -> S3Settings:
    """Settings of one mount. Raises ``UfsOption``."""
    values = read_options("s3", OPTIONS, options)
    check_values(values)
    bucket, prefix = split_uri(uri)
    region = values["region"] or _profile_region(values["profile"]) or "us-east-1"
    endpoint = values["endpoint"] or f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    path_style = values["path_style"]
    if path_style is None:
        # a bucket name with dots fits no wildcard certificate
        path_style = bool(values["endpoint"]) or "." in bucket
    given = Keys(values["access_key"], values["secret_key"], values["session_token"]) if values["access_key"] else None
    return S3Settings(
        uri=normal_uri(uri),
        bucket=bucket,
        prefix=(prefix + "/").encode("utf-8", "surrogateescape") if prefix else b"",
        base=endpoint if path_style else endpoint.replace("://", f"://{bucket}.", 1),
        host_style=not path_style,
        endpoint=endpoint,
        region=region,
        credentials=S3Credentials(values["anonymous"], given, values["profile"]),
        verify_tls=values["verify_tls"],
        ca_file=values["ca_file"],
        list_page=values["list_page"],
    )


def _profile_region(profile: str | None) -> str | None:
    import botocore.exceptions
    import botocore.session

    try:
        region = botocore.session.Session(profile=profile).get_config_variable("region")
    except botocore.exceptions.ProfileNotFound:
        raise UfsOption(f"option profile: there is no AWS profile {profile!r} on this machine") from None
    except botocore.exceptions.BotoCoreError as error:
        raise UfsOption(f"the AWS configuration of this machine cannot be read: {error}") from None
    return str(region) if region else None
