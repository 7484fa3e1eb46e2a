"""Numbers and texts as people read them; a missing figure is a dash, never a zero."""

DASH = "–"
MINUS = "−"
ROUNDING = 1e-12
"""What a sum of floats may leave of nought; no figure of a report is as small."""


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return DASH if value is None else f"{_plain(100 * value, digits)} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return DASH if value is None else f"{_signed(100 * value, 1)} points"


def figure(value: float | None, unit: str) -> str:
    """A value in its unit: share as a percentage, score as a number."""
    return percent(value) if unit == "share" else number(value)


def change(value: float | None, unit: str) -> str:
    """A signed difference without its unit: percentage points or score."""
    if value is None:
        return DASH
    if unit == "share":
        return _signed(100 * value, 1)
    return _signed(value, 1 if abs(value) >= 100 else 3)


def pvalue(value: float) -> str:
    """A p value to three places."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float | None, high: float | None, unit: str, *, signed: bool = False) -> str:
    """The two ends of an interval, or nothing."""
    if low is None or high is None:
        return ""
    scale, digits = (100, 1) if unit == "share" else (1, 3)
    form = _signed if signed else _plain
    return f"{form(scale * low, digits)} to {form(scale * high, digits)}"


def number(value: float | int | None) -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return DASH
    if abs(value) < ROUNDING:
        return "0"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u2009").replace("-", MINUS)  # thin space
    if abs(value) >= 100:
        return _plain(value, 1)
    return _plain(value, 3) if abs(value) >= 1e-3 else f"{value:.2g}".replace("-", MINUS)


def short(value: float | int | None) -> str:
    """A figure without trailing zeros, for the ticks of an axis."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


ESCAPED_BYTES = {"&": 5, "<": 4, ">": 4, '"': 5, "'": 5}
"""What the template engine makes of them: &amp; and so on."""


def shortened(text: str, max_bytes: int, max_characters: int | None = None) -> str:
    """The beginning of a text that takes at most `max_bytes` on a page; a cut is marked."""
    end = room = 0
    for character in text[:max_characters]:
        room += ESCAPED_BYTES.get(character) or len(character.encode())
        if room > max_bytes:
            break
        end += 1
    return text if end == len(text) else f"{text[:end]} … [{len(text) - end:,} more characters]"


def words(name: str) -> str:
    """A snake_case name as words."""
    return name.replace("_", " ")


def _plain(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", MINUS)


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", MINUS)
