"""Who may come in by which door (law 9), decided from ``security.*`` and the peer's address."""

from __future__ import annotations

from dataclasses import dataclass, field

from monofs.model.errors import ConfigError
from monofs.rpc.addresses import is_loopback
from monofs.rpc.handshake import check_secret
from monofs.rpc.tls import ServerTls


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """Who may come in: ``security.*`` of the configuration, with the secret itself."""

    secret: bytes | None = field(default=None, repr=False)
    authentication: str = "auto"
    """`auto`: anonymous from loopback and Unix sockets; `required`: the secret from everyone."""
    insecure: bool = False
    """Anonymous from everywhere."""
    tls: ServerTls | None = None
    """How TCP doors speak TLS; None: in clear. It hides, and tells clients whom they reach; it lets nobody in."""

    def allows_anonymous(self, *, local: bool) -> bool:
        """Whether a peer may come without a credential; ``local``: over loopback or a Unix socket."""
        return self.insecure or (local and self.authentication != "required")


def check_security(host: str, security: Security) -> None:
    """Law 9: ConfigError when a door on this address would let strangers in."""
    if security.authentication not in ("auto", "required"):
        raise ConfigError(f"security.authentication is auto or required, not {security.authentication!r}")
    if security.secret is not None:
        check_secret(security.secret)
    if security.tls is not None:
        security.tls.context()
    if security.secret is not None:
        return
    if security.insecure:
        return
    if security.authentication == "required":
        raise ConfigError("security.authentication=required needs a cluster secret; set security.cluster_secret_file")
    if host and not is_loopback(host):
        raise ConfigError(
            f"a door on {host} would be open to everyone: set security.cluster_secret_file, "
            "listen on 127.0.0.1, or name the risk with --insecure"
        )
