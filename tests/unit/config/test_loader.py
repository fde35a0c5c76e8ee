"""Settings: precedence, sources, and refusals that name what is wrong."""

import pytest

from monofs.config.loader import describe_settings, load_config, setting_fields
from monofs.config.units import format_bytes, parse_bytes, parse_duration_s
from monofs.model.errors import ConfigError


def test_flags_win_over_environment_over_file_over_defaults(tmp_path):
    file = tmp_path / "monofs.toml"
    file.write_text('[master]\nport = 1\nhost = "127.0.0.2"\nlist_threads = 3\n')
    environment = {"MONOFS_MASTER_PORT": "2", "MONOFS_MASTER_HOST": "127.0.0.3"}
    loaded = load_config(file=str(file), environ=environment, sets=["master.port=3"])
    assert (loaded.config.master.port, loaded.config.master.host, loaded.config.master.list_threads) == (
        3,
        "127.0.0.3",
        3,
    )
    assert loaded.config.worker.port == 29999
    assert loaded.sources["master.port"] == "command line"
    assert loaded.sources["master.host"] == "environment MONOFS_MASTER_HOST"
    assert loaded.sources["master.list_threads"] == str(file)
    assert "worker.port" not in loaded.sources


def test_sizes_and_durations_are_read_as_people_type_them():
    loaded = load_config(environ={}, sets=["worker.fetch_bytes=16MiB", "namespace.sync_interval_s=5m"])
    assert loaded.config.worker.fetch_bytes == 16 << 20
    assert loaded.config.namespace.sync_interval_s == 300.0
    assert load_config(environ={}, sets=["namespace.sync_interval_s=-1"]).config.namespace.sync_interval_s == -1


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (["master.prot=1"], "master.prot"),
        (["master.port"], "section.key=value"),
        (["master.port=x"], "master.port"),
        (["master.port=70000"], "70000"),
        (["node.role=boss"], "all, master, worker"),
        (["security.insecure=maybe"], "true or false"),
        (["worker.fetch_bytes=1"], "whole number of MiB"),
        (["worker.fetch_threads=0"], "at least 1"),
        (["worker.handover_bytes_s=0"], "at least 1"),
    ],
)
def test_what_is_wrong_is_named(sets, named):
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        load_config(environ={}, sets=sets)


def test_an_unknown_environment_variable_is_refused_and_client_variables_are_not():
    with pytest.raises(ConfigError, match="MONOFS_MASTER_PROT"):
        load_config(environ={"MONOFS_MASTER_PROT": "1"})
    assert load_config(environ={"MONOFS_MASTERS": "a:1", "MONOFS_HOME": "/h", "HOME": "/"}).config.node.home == "/h"


def test_a_bad_file_is_named_with_the_reason(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("[master\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(file=str(bad), environ={})
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(file=str(tmp_path / "none"), environ={})
    bad.write_text("port = 3\n")
    with pytest.raises(ConfigError, match="outside of a section"):
        load_config(file=str(bad), environ={})
    bad.write_text('[worker]\ntiers = [{name = "A", dir = "/a"}]\n')
    assert load_config(file=str(bad), environ={}).config.worker.tiers == '[{"name": "A", "dir": "/a"}]'


def test_every_setting_has_a_unit_and_a_sentence_and_is_documented():
    text = describe_settings()
    for field in setting_fields():
        assert field.unit, field.name
        assert field.doc.endswith((".", "]")), field.name
        assert f"`{field.name}`" in text


def test_units():
    assert parse_bytes("1.5 GiB") == 3 << 29
    assert parse_bytes("10GB") == 10 * 1000**3
    assert parse_bytes("10G") == 10 << 30
    assert parse_duration_s("250ms") == 0.25
    assert parse_duration_s("1d12h") == parse_duration_s("36 h") == 36 * 3600
    assert parse_duration_s("1h 30min") == 5400
    for text in ("", " ", "1d-2h", "1d 5", "soon"):
        with pytest.raises(ConfigError):
            parse_duration_s(text)
    assert format_bytes(1536) == "1.5 KiB"
    for text in ("", "ten", "5 parsecs", "-1GiB"):
        with pytest.raises(ConfigError):
            parse_bytes(text)
