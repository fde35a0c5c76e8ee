"""How a node finds its TLS: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from monofs.config.schema import SecurityConfig
from monofs.model.errors import ConfigError
from monofs.node.tls import find_client_tls, find_server_tls
from monofs.testing.certificates import Authority


def test_a_node_speaks_tls_when_it_has_certificate_and_key(tmp_path: Path) -> None:
    authority = Authority(str(tmp_path))
    files = authority.issue("node", "127.0.0.1")
    assert find_server_tls(SecurityConfig()) is None
    assert find_client_tls(SecurityConfig()) is None
    both = SecurityConfig(tls_certificate=files.certificate, tls_key=files.key, tls_ca=authority.ca)
    assert find_server_tls(both) is not None
    assert find_client_tls(both) is not None


def test_half_of_tls_is_none(tmp_path: Path) -> None:
    files = Authority(str(tmp_path)).issue("node", "127.0.0.1")
    for half in (SecurityConfig(tls_certificate=files.certificate), SecurityConfig(tls_key=files.key)):
        with pytest.raises(ConfigError, match="set together"):
            find_server_tls(half)
    with pytest.raises(ConfigError, match="cannot be used"):
        find_server_tls(SecurityConfig(tls_certificate=files.certificate, tls_key=files.certificate))
    with pytest.raises(ConfigError, match=r"security\.tls_ca"):
        find_client_tls(SecurityConfig(tls_ca=str(tmp_path / "none")))
