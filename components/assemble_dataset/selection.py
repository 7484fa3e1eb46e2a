"""FDC's choices as pure functions on frames: who gets which prompt, what fills the quotas.

Frames hold one row per pair: position (in the input), id, prompt_id, dimension, source, category,
group (of its prompt, see prompt_groups), first and second (hashes of the normalised answers),
prefers_unsafe (chosen is flagged unsafe, rejected safe), content (hash of all texts and flags).
Everything depends on ids and the seed alone, never on the order of the input.
"""

import hashlib
from collections.abc import Iterable
from math import ceil

import polars as pl

from components.assemble_dataset.config import AssembleDatasetConfig
from equilibrate_core.artifacts import Counts
from equilibrate_core.records import HARM_CATEGORIES

UNLABELLED = "unlabelled"
UNSAFE_PREFERRED = "unsafe_answer_preferred"


def split_prompts(pairs: pl.DataFrame, config: AssembleDatasetConfig) -> pl.DataFrame:
    """prompt_id and part (scorer, eval or train) of every prompt, in about the configured shares.

    Conversations of one group may continue one another, and hold what others have for answers:
    they go to one part. A part may exceed its share by less than one such family.
    """
    prompts = pairs.group_by("prompt_id").agg(pl.col("group").min())
    prompts = prompts.select("prompt_id", family=pl.col("prompt_id").min().over("group"))
    order = shuffled(prompts["family"].unique(), f"{config.seed}:split")
    families = (
        pl.DataFrame({"family": order}, schema={"family": pl.String})
        .with_row_index("place")
        .join(prompts.group_by("family").agg(size=pl.len().cast(pl.Int64)), on="family")
        .sort("place")
        .with_columns(before=pl.col("size").cum_sum() - pl.col("size"))
    )
    is_scorer = pl.col("before") < ceil(config.scorer_share * len(prompts))
    num_scorer = families.filter(is_scorer)["size"].sum()
    is_eval = pl.col("before") < num_scorer + ceil(config.eval_share * len(prompts))
    part = pl.when(is_scorer).then(pl.lit("scorer")).when(is_eval).then(pl.lit("eval"))
    families = families.select("family", part=part.otherwise(pl.lit("train")))
    return prompts.join(families, on="family").select("prompt_id", "part")


def each_once(pairs: pl.DataFrame, counts: Counts) -> pl.DataFrame:
    """Pairs without repeated ids; the repeats are counted."""
    # Rows of one id differ in white space, source and safety flags; which stays must not be chance.
    ordered = pairs.sort("id", "source", "content")
    kept = ordered.unique("id", keep="first", maintain_order=True)
    if len(kept) < len(pairs):
        counts.drop("exact_duplicate_pair", len(pairs) - len(kept))
    return kept


def in_one_order(pairs: pl.DataFrame, counts: Counts) -> pl.DataFrame:
    """Pairs of which no two hold the same two answers, and none prefers the unsafe one.

    Where the better answer is not the safer one, safety is the constraint: the harmless order
    wins over the helpful one, and a pair in that order alone goes, whether nobody gave the
    harmless one or sources contradicted each other about it. The rest is dropped and counted.
    """
    same_answers = ["prompt_id", "low", "high"]
    ordered = pairs.with_columns(
        low=pl.min_horizontal("first", "second"), high=pl.max_horizontal("first", "second")
    ).sort(pl.col("dimension") != "harmless", "id")
    marked = ordered.with_columns(
        is_first=pl.col("id").first().over(same_answers) == pl.col("id"),
        agrees=pl.col("first").first().over(same_answers) == pl.col("first"),
    )
    again = marked.filter(~pl.col("is_first"))
    for agrees, reason in (
        (True, "same_answers_again"),
        (False, "opposite_order_of_harmless_pair"),
    ):
        if number := int((again["agrees"] == agrees).sum()):
            counts.drop(reason, number)
    once = marked.filter("is_first")
    if number := int(once["prefers_unsafe"].sum()):
        counts.drop(UNSAFE_PREFERRED, number)
    return once.filter(~pl.col("prefers_unsafe")).select(pairs.columns)


def fill_quotas(
    pairs: pl.DataFrame, config: AssembleDatasetConfig, counts: Counts
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Pairs of train_pairs and the shortage per category; everything not taken is counted."""
    pools = {c: pairs.filter(pl.col("category") == c) for c in (*HARM_CATEGORIES, "NONE")}
    quotas = {category: getattr(config.quotas, category) for category in HARM_CATEGORIES}
    if config.selection == "all":
        quotas = {category: len(pools[category]) for category in HARM_CATEGORIES}
    parts = {c: stratified(pools[c], quotas[c], config.seed) for c in HARM_CATEGORIES}
    shortage = {c: max(quotas[c] - len(pools[c]), 0) for c in HARM_CATEGORIES}
    wanted = general_wanted(config, {c: len(part) for c, part in parts.items()})
    chosen = pl.concat(parts.values())
    if config.selection == "random":
        pooled = pl.concat(pools[c] for c in HARM_CATEGORIES)
        drawn = shuffled(pooled["id"], f"{config.seed}:random")[: len(chosen)]
        chosen = pooled.filter(pl.col("id").is_in(drawn))
    chosen = pl.concat([chosen, stratified(pools["NONE"], wanted, config.seed)])
    shortage["NONE"] = max(wanted - len(pools["NONE"]), 0)
    num_unlabelled = pairs["category"].null_count()
    left = {UNLABELLED: num_unlabelled, "over_quota": len(pairs) - num_unlabelled - len(chosen)}
    for reason, number in left.items():
        if number:
            counts.drop(reason, number)
    return chosen.sort("id"), shortage


def general_wanted(config: AssembleDatasetConfig, chosen: dict[str, int]) -> int:
    """General pairs to mix in, for the chosen numbers of safety pairs per category."""
    if config.general_count is not None:
        return config.general_count
    if config.general_per_category is not None:
        per_pair = config.general_per_category
        return max(round(getattr(per_pair, c) * number) for c, number in chosen.items())
    return round(config.general_ratio * sum(chosen.values()))


def stratified(pairs: pl.DataFrame, number: int, seed: int) -> pl.DataFrame:
    """At most `number` pairs, taken in turn from each source, in an order the seed decides."""
    order = shuffled(pairs["id"], f"{seed}:quota")
    place = pl.DataFrame({"id": order}, schema={"id": pl.String}).with_row_index("place")
    turns = pairs.join(place, on="id").with_columns(
        turn=pl.col("place").rank("ordinal").over("source")
    )
    return turns.sort("turn", "source").head(number).select(pairs.columns)


def shuffled(ids: Iterable[str], salt: str) -> list[str]:
    """Ids in an order that depends on them and the salt alone."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{salt}:{i}".encode()).digest())
