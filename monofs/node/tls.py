"""What a node's configuration says of TLS: how its doors speak it, and how it calls others.

Invariant: files that cannot be used end the start, before anything listens. Not here: TLS itself (rpc/tls.py).
"""

from __future__ import annotations

import os

from monofs.config.schema import SecurityConfig
from monofs.model.errors import ConfigError, InvalidArgument
from monofs.rpc.tls import ClientTls, ServerTls


def find_server_tls(security: SecurityConfig) -> ServerTls | None:
    """How this node's doors speak TLS; None: in clear. Raises ``ConfigError`` when the files cannot be used."""
    certificate, key = security.tls_certificate, security.tls_key
    if bool(certificate) != bool(key):
        raise ConfigError("security.tls_certificate and security.tls_key are set together, or neither")
    if not certificate:
        return None
    tls = ServerTls(os.path.expanduser(certificate), os.path.expanduser(key))
    tls.context()
    return tls


def find_client_tls(security: SecurityConfig) -> ClientTls | None:
    """How this node calls others; None: in clear. Raises ``ConfigError`` when the file cannot be used."""
    if not security.tls_ca:
        return None
    tls = ClientTls(os.path.expanduser(security.tls_ca))
    try:
        tls.context()
    except InvalidArgument as error:
        raise ConfigError(f"security.tls_ca: {error}") from None
    return tls
