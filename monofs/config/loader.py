"""Where settings come from: defaults < configuration file (TOML) < ``MONOFS_*`` environment < ``--set`` and flags.

Invariant: every value knows its source, and a name that is not in the schema is an error, never ignored (a typo must not
silently leave a default in force). Environment names are ``MONOFS_<SECTION>_<KEY>``; a few client variables are not settings.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from monofs.config.schema import Config
from monofs.config.units import parse_bytes, parse_duration_s
from monofs.model.errors import ConfigError
from monofs.model.slots import REPLICAS_MAX, WEIGHT_MAX, ZONE_MAX

CLIENT_VARIABLES = frozenset(
    {"MONOFS_MASTERS", "MONOFS_TOKEN_FILE", "MONOFS_TLS_CA", "MONOFS_CONFIG", "MONOFS_HOME", "MONOFS_FAILPOINTS"}
)
"""Environment variables that are read elsewhere. ``MONOFS_HOME`` is short for ``MONOFS_NODE_HOME``."""


@dataclass(frozen=True, slots=True)
class SettingField:
    """One setting of the schema, flattened."""

    name: str
    section: str
    key: str
    type: type
    default: Any
    unit: str
    doc: str
    secret: bool
    reload: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective configuration and the source of each setting (by ``section.key``; absent: default)."""

    config: Config
    sources: dict[str, str]


_BYTES = ("_bytes", "_bytes_s")
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


def setting_fields() -> Iterator[SettingField]:
    """All settings in schema order."""
    defaults = Config()
    for section in dataclasses.fields(Config):
        part = getattr(defaults, section.name)
        for each in dataclasses.fields(part):
            yield SettingField(
                name=f"{section.name}.{each.name}",
                section=section.name,
                key=each.name,
                type=_TYPES[str(each.type)],
                default=getattr(part, each.name),
                unit=each.metadata["unit"],
                doc=each.metadata["doc"],
                secret=each.metadata["secret"],
                reload=each.metadata["reload"],
            )


def parse_setting(field: SettingField, value: Any, source: str) -> Any:
    """Convert what a file, variable or flag gave to the setting's type. Raises ``ConfigError`` naming setting and source."""
    wanted = f"{field.name} ({source}): {value!r} is not {_describe(field)}"
    if isinstance(value, str) and field.type is not str:
        return _parse_text(field, value.strip(), wanted)
    if field.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if field.type is str and field.key == "tiers" and isinstance(value, list):
        return json.dumps(value)
    if type(value) is not field.type:
        raise ConfigError(wanted)
    return value


def _parse_text(field: SettingField, text: str, wanted: str) -> Any:
    if field.type is bool:
        if text.lower() in ("true", "1", "yes", "on"):
            return True
        if text.lower() in ("false", "0", "no", "off"):
            return False
        raise ConfigError(wanted)
    try:
        if field.type is float:
            return parse_duration_s(text) if field.key.endswith("_s") else float(text)
        return parse_bytes(text) if field.key.endswith(_BYTES) else int(text)
    except (ValueError, ConfigError):
        raise ConfigError(wanted) from None


def _describe(field: SettingField) -> str:
    if field.type is bool:
        return "true or false"
    if field.key.endswith(_BYTES):
        return "a size such as 64MiB"
    if field.key.endswith("_s"):
        return "a duration such as 30s"
    return {int: "a whole number", float: "a number", str: "text"}[field.type]


def load_config(
    *, file: str | None = None, environ: Mapping[str, str] | None = None, sets: list[str] | None = None
) -> Loaded:
    """Read all sources. ``sets`` are ``section.key=value``. Raises ``ConfigError``."""
    environment = os.environ if environ is None else environ
    fields = {field.name: field for field in setting_fields()}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def put(name: str, value: Any, source: str) -> None:
        field = fields.get(name)
        if field is None:
            raise ConfigError(f"{source}: there is no setting {name!r}; `monofs admin conf --all` lists them")
        values[name] = parse_setting(field, value, source)
        sources[name] = source

    file = file or environment.get("MONOFS_CONFIG") or None
    if file is not None:
        for name, value in _read_file(file):
            put(name, value, file)
    by_variable = {f"MONOFS_{field.section}_{field.key}".upper(): field.name for field in fields.values()}
    by_variable["MONOFS_HOME"] = "node.home"
    for variable in sorted(environment):
        if not variable.startswith("MONOFS_") or (variable in CLIENT_VARIABLES and variable != "MONOFS_HOME"):
            continue
        if variable not in by_variable:
            raise ConfigError(f"environment variable {variable} names no setting")
        put(by_variable[variable], environment[variable], f"environment {variable}")
    for text in sets or []:
        name, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--set {text!r}: write section.key=value")
        put(name.strip(), value, "command line")
    config = _build(values)
    _check(config)
    return Loaded(config, sources)


def _read_file(file: str) -> Iterator[tuple[str, Any]]:
    try:
        with open(os.path.expanduser(file), "rb") as stream:
            tables = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{file}: {section!r} stands outside of a section such as [master]")
        for key, value in table.items():
            yield f"{section}.{key}", value


def _build(values: dict[str, Any]) -> Config:
    parts: dict[str, Any] = {}
    for section in dataclasses.fields(Config):
        prefix = section.name + "."
        given = {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}
        parts[section.name] = dataclasses.replace(getattr(Config(), section.name), **given)
    return Config(**parts)


def _check(config: Config) -> None:
    """Values that no single type can refuse."""
    _one_of("node.role", config.node.role, ("all", "master", "worker"))
    _one_of("worker.local_copy", config.worker.local_copy, ("never", "second_read", "always"))
    _one_of("log.level", config.log.level, ("debug", "info", "warning", "error"))
    _one_of("security.authentication", config.security.authentication, ("auto", "required"))
    for name, port in (("master.port", config.master.port), ("worker.port", config.worker.port)):
        if not 0 <= port <= 65535:
            raise ConfigError(f"{name}: {port} is not a port number (0 to 65535)")
    if not -1 <= config.console.port <= 65535:
        raise ConfigError(f"console.port: {config.console.port} is not a port number (0 to 65535) or -1")
    if config.worker.fetch_bytes < 1 << 20 or config.worker.fetch_bytes % (1 << 20):
        raise ConfigError("worker.fetch_bytes must be a whole number of MiB")
    if not 1 <= config.namespace.replicas <= REPLICAS_MAX:
        raise ConfigError(f"namespace.replicas: a slot lists 1 to {REPLICAS_MAX} workers")
    if not 0 <= config.worker.weight <= WEIGHT_MAX or len(config.worker.zone) > ZONE_MAX:
        raise ConfigError(f"worker.weight is 0 to {WEIGHT_MAX:,}, and worker.zone has at most {ZONE_MAX} characters")
    if not 0 <= config.worker.reserve < 1:
        raise ConfigError("worker.reserve is a share: 0 <= reserve < 1")
    for field in setting_fields():
        value = getattr(getattr(config, field.section), field.key)
        at_least = 1 if field.key in _POSITIVE else None
        if at_least is not None and value < at_least:
            raise ConfigError(f"{field.name} must be at least {at_least}")


_POSITIVE = frozenset(
    [
        "max_connections",
        "list_threads",
        "store_queue",
        "segment_bytes",
        "queue_bytes",
        "batch_bytes",
        "flush_changes",
        "map_size_bytes",
        "fetch_threads",
        "fetch_queue",
        "fetch_retries",
        "io_threads",
        "descriptors_per_client",
        "handover_bytes_s",
    ]
)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(allowed)}")


def describe_settings() -> str:
    """The text of docs/configuration.md below its introduction."""
    lines: list[str] = []
    section = ""
    for field in setting_fields():
        if field.section != section:
            section = field.section
            lines += [f"\n## {section}\n", "| setting | default | unit | what it does |", "|---|---|---|---|"]
        default = str(field.default).lower() if field.type is bool else str(field.default)
        doc = field.doc + (" Takes effect without a restart." if field.reload else "")
        lines.append(f"| `{field.name}` | `{default or '(empty)'}` | {field.unit.replace('|', ' or ')} | {doc} |")
    return "\n".join(lines) + "\n"
