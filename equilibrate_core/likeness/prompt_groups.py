"""Prompts that belong together, so that no held-out figure is measured on what was learned.

conversations -> the group of each prompt; groups -> held-out prompts. Two prompts are of one group
if their conversations are near-duplicates, if their first user turns are equal or near-duplicates
(one may continue the other, and hold what the other has for an answer), or if both are of one
group with a third: one rule for the held-out parts of all stages.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from equilibrate_core.likeness.contamination import contaminated
from equilibrate_core.likeness.near_duplicates import duplicate_of
from equilibrate_core.likeness.normalising import normalised
from equilibrate_core.records import Message

NEAR = 0.8
"""Jaccard of near-duplicates, as `assemble_dataset.near_duplicate_jaccard` by default."""
COLUMNS = ("id", "root", "text")
Groups = Mapping[str, str]
"""The group of each prompt id, named by its smallest id."""


def conversations(rows: Iterable[tuple[str, Sequence[Message]]]) -> pl.DataFrame:
    """Ids, roots (first user turn) and texts (all but system turns) of prompts, normalised."""
    said = {i: [(m.role, m.content) for m in turns if m.role != "system"] for i, turns in rows}
    roots = [next((text for role, text in t if role == "user"), "") for t in said.values()]
    whole = [" ".join(text for _, text in turns) for turns in said.values()]
    frame = pl.DataFrame(
        {"id": list(said), "root": roots, "text": whole}, schema=dict.fromkeys(COLUMNS, pl.String)
    )
    return frame.with_columns(root=normalised(frame["root"]), text=normalised(frame["text"]))


def group_of(
    prompts: pl.DataFrame, *, threshold: float = NEAR, deduplicated: bool = False
) -> pl.DataFrame:
    """Every prompt's id and group, for a frame of `conversations` in any order.

    Where near-duplicates are out already (`deduplicated`) only first turns are searched. A chain of
    small changes may end in several groups, each of prompts that are alike: see `too_like`.
    """
    several_turns = prompts["root"] != prompts["text"]
    if prompts.is_empty() or (deduplicated and not several_turns.any()):
        return prompts.select("id", group="id")
    nodes = pl.concat([prompts["root"], prompts["text"]]).unique().sort()
    place = pl.DataFrame({"node": nodes}).with_row_index("place")
    ends = prompts.join(place.rename({"node": "root", "place": "from"}), on="root")
    ends = ends.join(place.rename({"node": "text", "place": "to"}), on="text")
    searched = prompts["root"].unique().sort() if deduplicated else nodes
    links = near_links(searched, threshold).join(place, left_on="first", right_on="node")
    links = links.join(place, left_on="second", right_on="node", suffix="_of_second")
    starts = pl.concat([ends["from"], links["place"]]).to_numpy()
    stops = pl.concat([ends["to"], links["place_of_second"]]).to_numpy()
    graph = coo_matrix((np.ones(len(starts)), (starts, stops)), shape=(len(nodes),) * 2)
    _, component = connected_components(graph, directed=False)
    found = ends.with_columns(component=pl.Series(component[ends["to"].to_numpy()]))
    return found.select("id", group=pl.col("id").min().over("component"))


def near_links(texts: pl.Series, threshold: float) -> pl.DataFrame:
    """Pairs (first, second) of distinct normalised texts that are alike.

    Searched in both orders: of three texts of which only the middle one is like the others, one
    order may leave an end by itself.
    """
    parts: list[pl.DataFrame] = [pl.DataFrame(schema={"first": pl.String, "second": pl.String})]
    for ordered in (texts, texts.reverse()):
        owners = duplicate_of(ordered, threshold=threshold)
        (goes,) = np.nonzero(owners >= 0)
        alike = {"first": ordered.gather(goes), "second": ordered.gather(owners[goes])}
        parts.append(pl.DataFrame(alike))
    return pl.concat(parts)


def groups_by_id(prompts: pl.DataFrame) -> dict[str, str]:
    """The group of every prompt of a frame of `conversations`."""
    return dict(group_of(prompts).iter_rows())


def drawn(groups: Groups, wanted: int, order: Callable[[str], Any]) -> set[str]:
    """About `wanted` of the prompts, whole groups, in an order that `order` gives to their names.

    A group larger than what is still wanted is passed over, so that no family takes the place of
    all others; if that leaves nothing, the smallest group is drawn, unless it is the only one.
    """
    sizes = Counter(groups.values())
    names = sorted(sizes, key=order)
    taken: set[str] = set()
    left = wanted
    for name in names:
        if sizes[name] <= left:
            taken.add(name)
            left -= sizes[name]
    if not taken and wanted and len(names) > 1:
        taken.add(min(names, key=lambda name: sizes[name]))
    return {prompt for prompt, group in groups.items() if group in taken}


def too_like(prompts: pl.DataFrame, held_out: Set[str], learned: Set[str]) -> set[str]:
    """Held-out prompts that equal, contain or are like a learned one: they measure nothing.

    What groups leave: the ends of chains, and prompts that hold another one word for word.
    """
    sides = (pl.Series(sorted(part), dtype=pl.String) for part in (held_out, learned))
    mine, others = (prompts.filter(pl.col("id").is_in(side.implode())) for side in sides)
    ids = mine["id"].to_list()
    texts = pl.concat([others["root"], others["text"]]).unique().sort()
    found: set[str] = set()
    for column in ("root", "text"):
        found |= {ids[i] for i in contaminated(mine[column], texts, threshold=NEAR)}
    return found
