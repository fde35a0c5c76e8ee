"""The console of a node: the service it is made of, from the configuration, and where it listens.

Invariant (law 9): it does not open where strangers could look, or listen to a token as it is typed. Every node has one, also one that is a master or a worker
alone: it asks the masters with the viewer's own credential.

Not here: what it shows (web), what this node knows of itself (node.py).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import CannotListenError

from monofs.client.filesystem import FileSystem, reach
from monofs.config.loader import Loaded
from monofs.config.schema import Config, SecurityConfig
from monofs.model.errors import ConfigError
from monofs.observe.recent import Recent
from monofs.rpc.addresses import format_address, is_loopback
from monofs.rpc.api import Setting
from monofs.rpc.handshake import Credential
from monofs.rpc.server import Security
from monofs.rpc.tls import ClientTls
from monofs.web.console import Console
from monofs.web.events import EventsDoor
from monofs.web.recording import Standing

WORKER_PORT = 30_000
TIMEOUT_S = 10.0
"""Of what the console asks by itself, again and again."""


def make_console(
    reactor: Any,
    loaded: Loaded,
    security: Security,
    *,
    credential: Credential,
    client_tls: ClientTls | None,
    masters: Callable[[], str],
    take_events: Callable[[Sequence[tuple[str, str, str]]], bool] | None,
    health: Callable[[], dict[str, object]],
    standing: Callable[[], Standing],
    settings: Callable[[], list[Setting]],
    history: str,
    logs: dict[str, Recent],
) -> Console:
    """A console that does not listen yet. ``masters`` tells where its clients find them; ``take_events``: of this node's master; None: it has none.

    Raises ``ConfigError`` where it may not listen as set."""
    config = loaded.config
    check_exposure(config.console.host, config.security, has_tls=security.tls is not None)

    def reach_as(token: str) -> FileSystem:
        return reach(masters(), Credential(token=token) if token else Credential(), client_tls)

    return Console(
        reactor,
        health=health,
        events=EventsDoor(config.master.events_token, take_events) if take_events is not None else None,
        connect=reach_as,
        own=lambda: reach(masters(), credential, client_tls, timeout_s=TIMEOUT_S),
        standing=standing,
        node=lambda: _told(config),
        is_open=config.security.authentication == "auto" and take_events is not None,
        names=[
            name.strip().lower()
            for name in f"{config.console.names},{config.node.advertise}".split(",")
            if name.strip()
        ],
        history=history,
        logs=logs,
        tls=security.tls,
        settings=settings,
    )


def listen_console(console: Console, loaded: Loaded, security: Security) -> str:
    """Open its port; where it is reached, as a URL. Raises ``ConfigError``."""
    settings = loaded.config.console
    try:
        port = console.listen(settings.host, _port(loaded))
    except CannotListenError as error:
        why = error.socketError
        shown = why.strerror if isinstance(why, OSError) else why
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {shown}; see console.host and console.port"
        ) from None
    scheme = "http" if security.tls is None else "https"
    return f"{scheme}://{format_address(settings.host, port)}"


def check_exposure(host: str, security: SecurityConfig, *, has_tls: bool) -> None:
    """Law 9: raise ``ConfigError`` where strangers could look, or listen to a token as it is typed."""
    if is_loopback(host) or security.insecure:
        return
    missing = [
        name
        for name, is_set in (
            ("security.authentication=required", security.authentication == "required"),
            ("security.tls_certificate and security.tls_key", has_tls),
        )
        if not is_set
    ]
    if missing:
        raise ConfigError(
            f"a console on {host or 'all addresses'} needs {', and '.join(missing)}: set that, keep console.host=127.0.0.1, or name the "
            "exception with security.insecure=true"
        )


def _port(loaded: Loaded) -> int:
    """As set, and where nothing is set 19999 at masters, 30000 at workers."""
    is_set = "console.port" in loaded.sources
    return WORKER_PORT if loaded.config.node.role == "worker" and not is_set else loaded.config.console.port


def _told(config: Config) -> dict[str, Any]:
    """What the console says of this node."""
    console = config.console
    prices = {"per_million_gets": console.price_per_million_gets, "per_gib": console.price_per_gib}
    return {"role": config.node.role, "name": config.journal.id or socket.gethostname(), "prices": prices}
