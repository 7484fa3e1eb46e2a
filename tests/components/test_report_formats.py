"""Numbers as people read them: no noise of floats, no minus before nought."""

import pytest

from components.write_report.formats import change, interval, number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1.1e-16, "0"), (0.0, "0"), (5e-6, "5e−06"), (-0.25, "−0.250"), (0.4375, "0.438"),
        (1234.0, "1\u2009234"), (-3.0, "−3"), (123.45, "123.5"), (None, "–"),
    ],
)  # fmt: skip
def test_a_figure_has_the_digits_it_deserves(value: float | None, text: str) -> None:
    assert number(value) == text


def test_nought_has_no_sign() -> None:
    assert percent(-1e-9) == "0.0 %"
    assert change(-1e-9, "share") == "0.0"
    assert interval(-1e-9, 0.5, "score") == "0.000 to 0.500"
    assert interval(-0.5, -1e-9, "share") == "−50.0 to 0.0"
