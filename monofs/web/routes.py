"""The table of what `/api/v1` answers, and its OpenAPI document.

A route is one function of (viewer, request values) that may block: it runs in a thread, with the viewer's own file system object. Invariant: everything that is served stands in the table, with the
right it needs, its parameters and the form of its answer; the document is made from the table, so the two cannot differ. Not here: the functions (api_*.py), HTTP (front.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from monofs import __version__
from monofs.model.errors import InvalidArgument, NotFound
from monofs.model.principal import Right
from monofs.web.records import shape

PREFIX = "/api/v1"
_HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value in the query or, when the path names it, in the path. ``kind``: string, integer, number or boolean."""

    name: str
    doc: str
    kind: str = "string"
    default: Any = None
    """None: it must be given."""
    least: int | None = None
    most: int | None = None

    def read(self, text: str | None) -> Any:
        """Its value. Raises ``InvalidArgument``."""
        if text is None:
            if self.default is None:
                raise InvalidArgument(f"the parameter {self.name} is missing: {self.doc}")
            return self.default
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{self.name} is not valid UTF-8") from None
        try:
            value = _READ[self.kind](text)
        except (ValueError, KeyError):
            raise InvalidArgument(f"{self.name} is a {self.kind}, not {text[:100]!r}") from None
        if self.kind in ("integer", "number") and not (self.least or 0) <= value <= (self.most or (1 << 62)):
            raise InvalidArgument(f"{self.name} is between {self.least or 0} and {self.most or 1 << 62}")
        return value

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema."""
        shown: dict[str, Any] = {"type": self.kind}
        if self.default is not None:
            shown["default"] = self.default
        if self.kind in ("integer", "number"):
            shown |= {"minimum": self.least or 0, "maximum": self.most or 1 << 62}
        return shown


_READ: dict[str, Callable[[str], Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": lambda text: {"true": True, "false": False, "1": True, "0": False}[text.lower()],
}


@dataclass(frozen=True, slots=True)
class Route:
    """``answer`` and ``body``: types msgspec can describe; ``body`` None: there is none. ``asks``: whom but the masters, who may hang: workers, or the store a path lies in."""

    method: str
    path: str
    act: Callable[..., Any]
    right: Right
    answer: Any
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    asks: str = ""

    @property
    def doc(self) -> str:
        """The first line of the function's docstring."""
        return (self.act.__doc__ or "").strip().partition("\n")[0]


class Routes:
    """All routes."""

    def __init__(self) -> None:
        self._routes: list[tuple[re.Pattern[str], Route]] = []

    def add(self, method: str, path: str, act: Callable[..., Any], right: Right, answer: Any, *parameters: Parameter, body: Any = None, asks: str = "") -> None:  # fmt: skip
        """``path`` below ``/api/v1``, with ``{name}`` for parameters of one component."""
        pattern = re.compile(_HOLE.sub(r"(?P<\1>[^/]+)", path))
        self._routes.append((pattern, Route(method, path, act, right, answer, parameters, body, asks)))

    def __iter__(self) -> Iterator[Route]:
        return (route for _, route in self._routes)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and what its path holds. Raises ``NotFound``; ``NotAllowed`` where only other methods are served."""
        methods = []
        for pattern, route in self._routes:
            match = pattern.fullmatch(path)
            if match is not None:
                if route.method == method:
                    return route, match.groupdict()
                methods.append(route.method)
        if methods:
            raise NotAllowed(", ".join(methods))
        raise NotFound(f"there is nothing at {PREFIX}{path[:200]}: see {PREFIX}/openapi.json")

    def values(self, route: Route, held: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
        """The arguments of the function. Raises ``InvalidArgument``."""
        known = {parameter.name for parameter in route.parameters}
        for name in query:
            if name not in known or name in held:
                raise InvalidArgument(f"{route.method} {PREFIX}{route.path} knows no parameter {name[:100]!r}")
        values = {each.name: each.read(held.get(each.name, query.get(each.name))) for each in route.parameters}
        if route.body is bytes:
            values["body"] = body
        elif route.body is not None:
            try:
                values["body"] = msgspec.json.decode(body, type=route.body)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                raise InvalidArgument(f"the body of {route.method} {PREFIX}{route.path}: {error}") from None
        return values

    def document(self) -> dict[str, Any]:
        """OpenAPI 3.1."""
        types = [each for route in self for each in (route.answer, route.body) if each not in (None, bytes)]
        types.append(Problem)
        schemas, components = msgspec.json.schema_components(
            [shape(each) for each in types], ref_template="#/components/schemas/{name}"
        )
        of = {id(each): schema for each, schema in zip(types, schemas, strict=True)}
        problem = {
            "description": "What is wrong, and what to do.",
            "content": {"application/json": {"schema": of[id(Problem)]}},
        }
        paths: dict[str, dict[str, Any]] = {}
        for route in self:
            held = set(_HOLE.findall(route.path))
            operation: dict[str, Any] = {
                "operationId": route.act.__name__.strip("_"),
                "summary": route.doc,
                "parameters": [
                    {
                        "name": each.name,
                        "in": "path" if each.name in held else "query",
                        "required": each.name in held or each.default is None,
                        "description": each.doc,
                        "schema": each.schema(),
                    }
                    for each in route.parameters
                ],
                "responses": {
                    "200": {"description": "Done.", "content": _content(route.answer, of)},
                    "default": problem,
                },
            }
            if route.answer is bytes and route.asks:
                operation["responses"]["206"] = {"description": "The part that Range asked for."}
                operation["responses"]["416"] = {"description": "The file has no such part."}
            if route.body is not None:
                operation["requestBody"] = {"required": True, "content": _content(route.body, of)}
            paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = operation
        return {
            "openapi": "3.1.0",
            "info": {"title": "monofs", "version": __version__, "description": "What the web console shows and does."},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer", "description": "As `monofs token add` prints it."}
                },
            },
            "security": [{}, {"token": []}],
        }


class Problem(msgspec.Struct):
    """An error."""

    error: str
    code: int
    message: str
    hint: str
    retry: bool


class NotAllowed(Exception):
    """Only these methods are served there."""


def _content(kind: Any, of: dict[int, Any]) -> dict[str, Any]:
    if kind is bytes:
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {"application/json": {"schema": of[id(kind)]}}
