"""Which language a prompt is in, where its source says so, and which script it is written in.

labelled prompts -> languages by prompt; texts -> the script that most of their letters are of.
"""

from pathlib import Path

import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equilibrate_core.tables import dataset_files

SCRIPTS = {
    "han": r"\p{Han}",
    "kana": r"[\u3041-\u3096\u30a1-\u30fa]",
    "hangul": r"\p{Hangul}",
    "latin": r"\p{Latin}",
    "cyrillic": r"\p{Cyrillic}",
    "arabic": r"\p{Arabic}",
    "devanagari": r"\p{Devanagari}",
    "thai": r"\p{Thai}",
}
"""In the order in which a tie is decided."""
JAPANESE = "japanese"
KANA_SHARE = 0.1
"""Japanese is written in Han and kana together; a Chinese text may quote a word in kana."""
OTHER = "other"


def told_languages(labelled_prompts: Path) -> pl.DataFrame:
    """prompt_id and language of every prompt whose source says its language (metadata)."""
    found = [pl.DataFrame(schema={"prompt_id": pl.String, "language": pl.String})]
    for path in dataset_files(labelled_prompts):
        table = pq.read_table(path, columns=["id", "metadata"])
        said = pc.map_lookup(  # pyright: ignore[reportAttributeAccessIssue]
            table["metadata"], "language", "first"
        )
        told = pl.DataFrame({"prompt_id": pl.Series(table["id"]), "language": pl.Series(said)})
        found.append(told.filter(pl.col("language").str.strip_chars() != ""))
    return pl.concat(found).sort("prompt_id", "language").unique("prompt_id", keep="first")


def scripts(texts: pl.Series) -> pl.Series:
    """The script that most letters of each text are of; `other` for a text without any letter."""
    frame = texts.alias("text").to_frame().with_row_index("i")
    held = frame.with_columns(pl.col("text").str.contains(p).alias(n) for n, p in SCRIPTS.items())
    alone = pl.sum_horizontal(*SCRIPTS) == 1
    # Most texts hold one script: only the letters of the others have to be counted.
    plain = held.filter(alone).with_columns(pl.col(*SCRIPTS).cast(pl.UInt32))
    mixed = held.filter(~alone).with_columns(
        pl.col("text").str.count_matches(p).alias(n) for n, p in SCRIPTS.items()
    )
    letters = pl.concat([plain, mixed]).with_columns(both=pl.col("han") + pl.col("kana"))
    japanese = pl.col("kana") >= KANA_SHARE * pl.col("both")
    names = {"both": JAPANESE} | {name: name for name in SCRIPTS if name != "kana"}
    letters = letters.with_columns(
        both=pl.when(japanese).then("both").otherwise(0),
        han=pl.when(japanese).then(0).otherwise("both"),
    )
    most = pl.max_horizontal(*names)
    found = pl.coalesce(
        pl.when(most == 0).then(pl.lit(OTHER)),
        *(pl.when(pl.col(column) == most).then(pl.lit(name)) for column, name in names.items()),
    )
    return letters.select("i", script=found).sort("i")["script"]
