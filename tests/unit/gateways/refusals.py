"""What a pure function makes of its arguments: a result, or the code it refuses them with. Any other exception is a failure of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monofs.gateways.s3.errors import S3Error


def attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """(result, empty) or (None, code)."""
    try:
        return function(*arguments), ""
    except S3Error as error:
        return None, error.code
