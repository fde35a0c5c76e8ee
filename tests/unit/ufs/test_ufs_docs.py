"""The page users read tells the truth about options."""

from __future__ import annotations

from pathlib import Path

import pytest

from monofs.ufs.options import Option
from monofs.ufs.registry import OPTIONS

PAGE = (Path(__file__).parents[3] / "docs" / "under-storage.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", [option for options in OPTIONS.values() for option in options], ids=lambda o: o.name)
def test_every_option_stands_in_the_page_with_its_default_and_sentence(option: Option) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{option.name}`"))
    assert option.doc in row
    assert f"`{option.default}`" in row or not option.default
    assert ("(secret)" in row) == option.secret


def test_every_scheme_stands_in_the_page() -> None:
    assert all(f"{scheme}://" in PAGE for scheme in OPTIONS)
