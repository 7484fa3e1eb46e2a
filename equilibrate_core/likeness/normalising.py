"""Texts as they count for likeness: width, case, punctuation and spacing do not, symbols do.

texts -> normalised texts. Equal normalised texts are one question: "C++" is not "C", "3+5" is
neither "3-5" nor "3 5", 2.5 is not 25, 10² is not 102, one emoji is not another; "3 + 5" is "3+5".
"""

import re

import polars as pl

DENSE_RANGES = ((0x2E80, 0x9FFF), (0xAC00, 0xD7A3), (0x20000, 0x3FFFF))
"""Code points of Chinese, Japanese and Korean characters, each of which says as much as letters."""
_DENSE = "".join(f"{chr(first)}-{chr(last)}" for first, last in DENSE_RANGES)
DENSE = re.compile(f"[{_DENSE}]")
_SYMBOLS = r"\p{Sm}\p{Sc}\p{So}%#*/^&"
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", (f"^{digit}" for digit in "0123456789"), strict=True))
_FORM = r"[\x{FE0E}\x{FE0F}]"
"""Says whether a symbol is drawn in colour: another form of the same."""
_MEANT = (
    ("!=", "≠"),
    (
        r"(\d)\.(\d)",
        "${1}∙$2",
    ),  # a decimal point; ∙ and − are symbols, the marks they stand for not
    (r"([\d)=<>+*/^]\s*)[-‐–—]", "${1}−"),  # between numbers or terms
    (r"(^|[\s(,:])[-‐–—](\d)", "${1}−$2"),  # a sign
    (f"([{_SYMBOLS}])", " $1 "),
)
_MEANINGFUL = rf"[\d{_SYMBOLS}]"
_SPACING = rf"[^\p{{L}}\p{{M}}\p{{N}}{_SYMBOLS}]+"
_SEAMS = (  # those characters are written without spaces, and with or without one beside others
    (f"([{_DENSE}]) +", "$1"),
    (f" +([{_DENSE}])", "$1"),
    (f"([{_DENSE}])([^{_DENSE}])", "$1 $2"),
    (f"([^{_DENSE}])([{_DENSE}])", "$1 $2"),
)


def normalised(texts: pl.Series) -> pl.Series:
    """Texts as they count for likeness; one of punctuation alone stays as it is."""
    if texts.str.contains_any(list(_RAISED)).any():
        texts = texts.str.replace_many(_RAISED)
    if texts.str.contains(_FORM).any():
        texts = texts.str.replace_all(_FORM, "")
    folded = texts.str.normalize("NFKC").str.to_lowercase()
    plain = _replaced(folded, _MEANINGFUL, _MEANT)
    plain = plain.str.replace_all(_SPACING, " ").str.strip_chars(" ")
    plain = _replaced(plain, f"[{_DENSE}]", _SEAMS)
    return folded.zip_with(plain == "", plain)


def _replaced(texts: pl.Series, telling: str, rules: tuple[tuple[str, str], ...]) -> pl.Series:
    """The texts with the rules applied, in turn, to those that hold what they are about."""
    held = texts.str.contains(telling)
    few = texts.filter(held)
    if not len(few):
        return texts
    for pattern, replacement in rules:
        few = few.str.replace_all(pattern, replacement)
    place = held.cum_sum().cast(pl.Int64) - 1
    return few.gather(place.clip(lower_bound=0)).zip_with(held, texts)
