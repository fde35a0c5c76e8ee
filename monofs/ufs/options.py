"""What an option of a mount is: a name, a default, a sentence, whether it is a secret, and the check of its text.

Values are text as the user typed them; a store reads them once, at :func:`read_options`, into typed values. Not here: which
options a store has (``s3_settings``, ``local``) and which stores there are (``registry``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from monofs.model.errors import UfsOption


def text(value: str) -> str:
    """Any text without control characters."""
    if any(ord(letter) < 32 for letter in value):
        raise ValueError("must not contain control characters")
    return value


def flag(value: str) -> bool:
    """``true`` or ``false``; also 1/0, yes/no, on/off."""
    word = value.strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("must be true or false")


@dataclass(frozen=True, slots=True)
class Whole:
    """A reader of whole numbers within bounds."""

    least: int
    most: int

    def __call__(self, value: str) -> int:
        """Its number. Raises ``ValueError`` with what is wanted."""
        try:
            number = int(value)
        except ValueError:
            number = self.least - 1
        if not self.least <= number <= self.most:
            raise ValueError(f"must be a whole number from {self.least} to {self.most}")
        return number


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``read`` turns its text into a value or raises ``ValueError`` with what is wanted; ``default`` is text as well."""

    name: str
    doc: str
    default: str = ""
    read: Callable[[str], Any] = text
    secret: bool = False


def read_options(scheme: str, known: tuple[Option, ...], given: Mapping[str, str]) -> dict[str, Any]:
    """Typed values of all known options; an option left out or given as empty text has its default (None where that is empty).

    Raises ``UfsOption`` naming the known options, or what is wrong with a value; a secret's value is never shown.
    """
    names = [option.name for option in known]
    for name in given:
        if name not in names:
            known_names = ", ".join(names)
            raise UfsOption(f"unknown option {name!r}: a mount of {scheme}:// knows {known_names}", option=name)
    values: dict[str, Any] = {}
    for option in known:
        value = given.get(option.name) or option.default
        try:
            values[option.name] = option.read(value) if value else None
        except ValueError as error:
            shown = "its value" if option.secret else repr(value)
            raise UfsOption(f"option {option.name}: {shown} {error}", option=option.name) from None
    return values
