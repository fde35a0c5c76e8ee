"""One bucket as both ways to ask it see it: obstore's client, our own signed requests, names for messages, errors, metrics.

The client of obstore is made at first use, because the credential chain may have to ask the network. Not here: what is asked.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store as ObstoreS3

from monofs.model.errors import InvariantBroken, UfsOption
from monofs.ufs.observe import Observer
from monofs.ufs.s3_errors import Where, obstore_error
from monofs.ufs.s3_requests import CONNECT_TIMEOUT_S, USER_AGENT, S3Requests
from monofs.ufs.s3_settings import S3Settings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

REQUEST_TIMEOUTS = 20
"""A whole request may take this many times the silence allowed within it."""
_EXPRESSIBLE = re.compile(r"(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+(?:/(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+)*\Z")


class S3Link:
    """The connections of one store; thread-safe."""

    def __init__(self, settings: S3Settings, *, timeout_s: float = 30.0, observe: Observer | None = None) -> None:
        self._settings = settings
        self._prefix = settings.prefix
        self._timeout_s = timeout_s
        self._observe = observe
        self._requests = S3Requests(settings, timeout_s)
        self._lock = threading.Lock()
        self._obstore: ObstoreS3 | None = None

    def close(self) -> None:
        """Close idle connections."""
        self._requests.close()
        with self._lock:
            self._obstore = None

    def _store(self) -> ObstoreS3:
        """The obstore client, made at first use: the credential chain may have to ask the network."""
        with self._lock:
            if self._obstore is None:
                self._obstore = self._open()
            return self._obstore

    def _open(self) -> ObstoreS3:
        settings = self._settings
        client: ClientConfig = {
            "allow_http": True,
            "user_agent": USER_AGENT,
            "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, self._timeout_s)),
            "read_timeout": timedelta(seconds=self._timeout_s),
            "timeout": timedelta(seconds=self._timeout_s * REQUEST_TIMEOUTS),
        }
        if not settings.verify_tls:
            client["allow_invalid_certificates"] = True
        try:
            if settings.ca_file:
                with open(settings.ca_file, "rb") as file:
                    client["root_certificate"] = file.read()
            # every setting is given, so that none is taken from this process's environment
            config: S3Config = {
                "aws_endpoint_url_s3": settings.base,
                "region": settings.region,
                "virtual_hosted_style_request": settings.host_style,
                "skip_signature": settings.credentials.anonymous,
                "unsigned_payload": False,
                "request_payer": False,
                "s3_express": False,
            }
            # asked once here, so that a chain without keys is told in our words
            provider = None if settings.credentials.current() is None else self._provide_keys
            return ObstoreS3(
                settings.bucket,
                config=config,
                client_options=client,
                retry_config={"max_retries": 0},
                credential_provider=provider,
            )
        except (OSError, ValueError, obstore.exceptions.BaseError) as error:
            raise UfsOption(f"{settings.uri} cannot be opened: {_first_line(error)}") from None

    def _provide_keys(self) -> S3Credential:
        """Keys for obstore; those of a chain are asked for again after ten minutes (obstore renews five minutes early)."""
        keys = self._settings.credentials.current()
        if keys is None:
            raise InvariantBroken("obstore asks for keys only when requests are signed")
        changing = self._settings.credentials.changing
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10) if changing else None,
        }

    def _name(self, key: bytes) -> str:
        return f"{self._settings.uri}/{key.decode('utf-8', 'backslashreplace')}"

    def _where(self, key: bytes) -> Where:
        keys = self._settings.credentials.given
        return Where(self._name(key), self._settings.bucket, self._settings.endpoint, keys.access_key if keys else "")

    def _translate(self, error: BaseException, key: bytes, *, in_body: bool = False) -> Exception:
        return obstore_error(str(error), self._where(key), in_body=in_body)


def expressible(key: bytes) -> str | None:
    """The key as obstore's path, or None where its path rules would refuse or change the key."""
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if _EXPRESSIBLE.match(text) else None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
