"""A scripted S3 server for the tests of the S3 store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_stub import Stub, serving


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving() as made:
        yield made
