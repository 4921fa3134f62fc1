"""Why there is no ONNX file, whatever the exporter raised."""

from __future__ import annotations

import pytest

from seglab.studies.onnx_export import absence


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no such\nstack of lines"), "none: ValueError: no such"),
        (AssertionError(), "none: AssertionError"),
        (RuntimeError(" \n "), "none: RuntimeError"),
    ],
)
def test_an_error_is_told_in_one_line_also_without_words(error: Exception, told: str) -> None:
    assert absence(error) == told


def test_a_long_error_fits_a_tag() -> None:
    assert len(absence(ValueError("x" * 10_000))) == 500
