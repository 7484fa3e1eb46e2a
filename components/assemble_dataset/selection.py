"""FDC's choices as pure functions: which prompts stay, who gets which, what fills the quotas.

Everything depends on ids and the seed alone, never on the order of the input.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence, Set
from math import ceil

from components.assemble_dataset.config import AssembleDatasetConfig
from components.assemble_dataset.near_duplicates import clusters, near_duplicates
from equilibrate_core.artifacts import Counts
from equilibrate_core.records import HARM_CATEGORIES, LabelledPrompt, Pair, normalise_text


def usable_prompts(
    prompts: Sequence[LabelledPrompt], config: AssembleDatasetConfig
) -> dict[str, str]:
    """Reason why a prompt may not be used, by prompt id; a prompt without an entry may be.

    Of near-duplicates the one with the smallest id stays; a prompt like an evaluation prompt goes.
    """
    ordered = sorted(prompts, key=lambda p: p.id)
    texts = [" ".join(m.content for m in p.messages) for p in ordered]
    is_eval = [p.suite is not None for p in ordered]
    reasons = {p.id: "evaluation_prompt" for p in ordered if p.suite is not None}
    lowest = min(config.near_duplicate_jaccard, config.contamination_jaccard)
    links: list[tuple[int, int]] = []
    for i, j, similarity in near_duplicates(texts, jaccard=lowest):
        if is_eval[i] != is_eval[j] and similarity >= config.contamination_jaccard:
            reasons[ordered[j if is_eval[i] else i].id] = "contaminated"
        elif not (is_eval[i] or is_eval[j]) and similarity >= config.near_duplicate_jaccard:
            links.append((i, j))
    clean = [(i, j) for i, j in links if not {ordered[i].id, ordered[j].id} & reasons.keys()]
    for i, cluster in enumerate(clusters(len(ordered), clean)):
        if cluster != i:
            reasons[ordered[i].id] = "near_duplicate_prompt"
    return reasons


def split_prompts(prompt_ids: Set[str], config: AssembleDatasetConfig) -> dict[str, str]:
    """Part of every prompt: scorer, eval or train, in the configured shares."""
    ordered = shuffled(prompt_ids, f"{config.seed}:split")
    num_scorer = ceil(config.scorer_share * len(ordered))
    num_eval = ceil(config.eval_share * len(ordered))
    return {
        prompt: "scorer" if i < num_scorer else "eval" if i < num_scorer + num_eval else "train"
        for i, prompt in enumerate(ordered)
    }


def in_one_order(pairs: Sequence[Pair], counts: Counts) -> list[Pair]:
    """Pairs of which no two hold the same two answers: the harmless one stays.

    Where the better answer is not the safer one, safety is the constraint: the harmless order
    wins over the helpful one. The rest is dropped and counted.
    """
    kept: dict[tuple[str, frozenset[str]], Pair] = {}
    for pair in sorted(pairs, key=lambda p: (p.dimension != "harmless", p.id)):
        key = (pair.prompt_id, frozenset(map(normalise_text, (pair.chosen, pair.rejected))))
        first = kept.setdefault(key, pair)
        if first is not pair:
            same = normalise_text(first.chosen) == normalise_text(pair.chosen)
            counts.drop("same_answers_again" if same else "opposite_order_of_harmless_pair")
    return list(kept.values())


def fill_quotas(
    pairs: Sequence[Pair], config: AssembleDatasetConfig, counts: Counts
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs of train_pairs and the shortage per category; everything not taken is counted."""
    pools: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        pools[pair.category or "unlabelled"].append(pair)
    quotas = {category: getattr(config.quotas, category) for category in HARM_CATEGORIES}
    chosen = [p for c in HARM_CATEGORIES for p in stratified(pools[c], quotas[c], config.seed)]
    shortage = {c: max(quotas[c] - len(pools[c]), 0) for c in HARM_CATEGORIES}
    if config.selection == "random":
        pooled = {p.id: p for c in HARM_CATEGORIES for p in pools[c]}
        drawn = shuffled(pooled.keys(), f"{config.seed}:random")[: len(chosen)]
        chosen = [pooled[i] for i in drawn]
    num_safety = len(chosen)
    wanted = config.general_count
    if wanted is None:
        wanted = round(config.general_ratio * num_safety)
    chosen += stratified(pools["NONE"], wanted, config.seed)
    shortage["NONE"] = max(wanted - len(pools["NONE"]), 0)
    taken = {p.id for p in chosen}
    for category, pool in pools.items():
        left = sum(1 for p in pool if p.id not in taken)
        if left:
            counts.drop("unlabelled" if category == "unlabelled" else "over_quota", left)
    return sorted(chosen, key=lambda p: p.id), shortage


def stratified(pairs: Sequence[Pair], number: int, seed: int) -> list[Pair]:
    """At most `number` pairs, taken in turn from each source, in an order the seed decides."""
    by_source: dict[str, list[Pair]] = defaultdict(list)
    by_id = {p.id: p for p in pairs}
    for pair_id in shuffled(by_id.keys(), f"{seed}:quota"):
        by_source[by_id[pair_id].source].append(by_id[pair_id])
    queues = [by_source[source] for source in sorted(by_source)]
    rounds = [queue[r] for r in range(len(pairs)) for queue in queues if r < len(queue)]
    return rounds[:number]


def shuffled(ids: Set[str], salt: str) -> list[str]:
    """Ids in an order that depends on them and the salt alone."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{salt}:{i}".encode()).digest())
