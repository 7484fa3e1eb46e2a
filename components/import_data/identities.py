"""Ids of whole columns, equal to what `records.prompt_id` and `records.pair_id` give row by row."""

import hashlib
import json

import polars as pl

_SPACE = r"[\s\x1c-\x1f]{2,}|[^\S ]|[\x1c-\x1f]"
"""What `str.split` takes for space, but for the single blanks that stay as they are."""
_ODD = r"^ | $|  |[^\S ]|[\x00-\x1f]"
"""What normalising may change, and what JSON escapes other than by a backslash before it."""


def identity(texts: pl.Series) -> pl.Series:
    """Each text normalised and escaped as it stands in the JSON that ids are digests of."""
    odd = texts.str.contains(_ODD).fill_null(value=False)
    escapes = {character: f"\\{character}" for character in ("\\", '"')}
    if odd.any():
        normal = texts.filter(odd).str.replace_all(_SPACE, " ").str.strip_chars(" ")
        places = (odd.cum_sum().cast(pl.Int64) - 1).clip(0)
        texts = normal.gather(places).zip_with(odd, texts)
        if normal.str.contains(r"[\x00-\x1f]").any():
            escapes |= {chr(code): json.dumps(chr(code))[1:-1] for code in range(32)}
    for character, escaped in escapes.items():
        texts = texts.str.replace_all(character, escaped, literal=True)
    return texts


def prompt_ids(identities: pl.Series) -> list[str]:
    """Ids of the prompts that consist of one user turn each."""
    texts = pl.DataFrame({"text": identities})
    return _digests(texts, pl.format('[["user","{}"]]', pl.col("text")))


def pair_ids(
    prompts: list[str], chosen: pl.Series, rejected: pl.Series, dimensions: list[str]
) -> list[str]:
    """Ids of the pairs, of the ids of their prompts and the identities of the answers."""
    parts = {"p": prompts, "c": chosen, "r": rejected, "d": pl.Series(dimensions, dtype=pl.String)}
    return _digests(pl.DataFrame(parts), pl.format('["{}","{}","{}","{}"]', "p", "c", "r", "d"))


def answer_keys(prompts: list[str], answers: pl.Series) -> list[int]:
    """A number for each answer to a prompt: the same for the same normalised text, in one run."""
    parts = pl.DataFrame({"prompt": prompts, "answer": identity(answers)})
    return parts.select(pl.concat_str("prompt", "answer").hash()).to_series().to_list()


def _digests(parts: pl.DataFrame, text: pl.Expr) -> list[str]:
    """As `records.digest`: the first 24 hex digits; of nothing where a part is null."""
    texts = parts.select(text.fill_null("").cast(pl.Binary)).to_series().to_list()
    return [hashlib.sha256(each).hexdigest()[:24] for each in texts]
