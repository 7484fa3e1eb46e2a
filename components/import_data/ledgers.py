"""What has been seen so far: duplicates and contradictions among prompts and among pairs.

Reasons for dropping a row, each counted:
- exact_duplicate: the same prompt with the same labels, or the same pair, came before.
- merged_prompt: the prompt came before, with other labels or answers to fill in.
- conflicting_label: it came before with a contradicting label. One prompt stays, its gold category
  (or `is_harmful`) None; the first row counts as kept, the others as dropped. Likewise for a
  pair's safety flags.
- conflicting_preference: the same two answers are preferred both ways along one dimension; all
  rows of both orders go.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from components.import_data.spool import Spool
from equilibrate_core.records import Pair, Prompt, digest, normalise_text

EXACT_DUPLICATE = "exact_duplicate"
MERGED_PROMPT = "merged_prompt"
CONFLICTING_LABEL = "conflicting_label"
CONFLICTING_PREFERENCE = "conflicting_preference"
REASONS = (EXACT_DUPLICATE, MERGED_PROMPT, CONFLICTING_LABEL, CONFLICTING_PREFERENCE)
DISPUTED: Final = "disputed"
"""Label on which rows contradict each other; it leaves as None and never becomes known again."""


@dataclass
class _Entry:
    first: Prompt
    gold_category: str | None
    is_harmful: bool | str | None
    suite: str | None
    other_suites: tuple[str, ...]
    references: tuple[str, ...]
    metadata: dict[str, str]
    is_merged: bool = False
    """Whether a later row brought the prompt again; most never are."""


class PromptLedger:
    """Every prompt once, in order of appearance, completed by later rows.

    The first source keeps the prompt. A suite wins over none, and then its `is_harmful` too; a
    second suite is noted in metadata as `also_in_suites`.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, prompt: Prompt, *, is_pair: bool) -> str | None:
        """Enter a prompt; the reason its row is dropped, or None when the prompt is new."""
        entry = self._entries.get(prompt.id)
        if entry is None:
            self._entries[prompt.id] = _Entry(
                first=prompt,
                gold_category=prompt.gold_category,
                is_harmful=prompt.is_harmful,
                suite=prompt.suite,
                other_suites=(),
                references=prompt.references,
                metadata=prompt.metadata,
            )
            return None
        entry.is_merged = True
        category, is_harmful = _merged_labels(entry, prompt)
        contradicts = _contradicts(category, prompt.gold_category) or _contradicts(
            is_harmful, prompt.is_harmful
        )
        entry.gold_category, entry.is_harmful = category, is_harmful
        _complete(entry, prompt)
        if contradicts:
            return CONFLICTING_LABEL
        return EXACT_DUPLICATE if not is_pair and _same(entry.first, prompt) else MERGED_PROMPT

    def num_in_suites(self) -> int:
        """Prompts that belong to an evaluation suite."""
        return sum(entry.suite is not None for entry in self._entries.values())

    def settled(self) -> Iterator[Prompt]:
        """The prompts, disputed labels as None."""
        for entry in self._entries.values():
            if not entry.is_merged:
                yield entry.first
                continue
            metadata = dict(entry.metadata)
            if entry.other_suites:
                metadata["also_in_suites"] = ",".join(entry.other_suites)
            yield entry.first.model_copy(
                update={
                    "gold_category": _settle(entry.gold_category),
                    "is_harmful": _settle(entry.is_harmful),
                    "suite": entry.suite,
                    "references": entry.references,
                    "metadata": metadata,
                }
            )


class PairLedger:
    """Which pairs were seen, as hashes; the pairs themselves wait in a spool on disk."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._flags: dict[tuple[bytes, bool], tuple[Any, Any]] = {}

    def add(self, row: int, pair: Pair) -> str | None:
        """Enter a pair of row number `row`; the reason it is dropped at once, if it is."""
        key = _key(pair)
        flags = (pair.chosen_is_safe, pair.rejected_is_safe)
        seen = self._flags.get(key)
        if seen is None:
            self._flags[key] = flags
            self._spool.append([row, pair.model_dump(mode="json")])
            return None
        merged = (_merge(seen[0], flags[0]), _merge(seen[1], flags[1]))
        self._flags[key] = merged
        contradicts = _contradicts(merged[0], flags[0]) or _contradicts(merged[1], flags[1])
        return CONFLICTING_LABEL if contradicts else EXACT_DUPLICATE

    def settled(self) -> Iterator[tuple[int, Pair, str | None]]:
        """Row number, pair and the reason it is dropped after all, in order of appearance."""
        for row, value in self._spool:
            pair = Pair.model_validate(value)
            content, order = key = _key(pair)
            if (content, not order) in self._flags:
                yield row, pair, CONFLICTING_PREFERENCE
                continue
            chosen, rejected = map(_settle, self._flags[key])
            flags = {"chosen_is_safe": chosen, "rejected_is_safe": rejected}
            yield row, pair.model_copy(update=flags), None


def _key(pair: Pair) -> tuple[bytes, bool]:
    """Digest of prompt, dimension and the two answers as a set; and which of them is preferred."""
    chosen, rejected = normalise_text(pair.chosen), normalise_text(pair.rejected)
    content = [pair.prompt_id, pair.dimension, sorted((chosen, rejected))]
    return bytes.fromhex(digest(content)), chosen < rejected


def _merged_labels(entry: _Entry, prompt: Prompt) -> tuple[Any, Any]:
    category = _merge(entry.gold_category, prompt.gold_category)
    if (entry.suite is None) == (prompt.suite is None):
        return category, _merge(entry.is_harmful, prompt.is_harmful)
    suite_says, other_says = prompt.is_harmful, entry.is_harmful
    if prompt.suite is None:
        suite_says, other_says = other_says, suite_says
    return category, other_says if suite_says is None else suite_says


def _complete(entry: _Entry, prompt: Prompt) -> None:
    if entry.suite is None:
        entry.suite = prompt.suite
    elif prompt.suite not in (None, entry.suite, *entry.other_suites):
        entry.other_suites += (str(prompt.suite),)
    entry.references = tuple(dict.fromkeys(entry.references + prompt.references))
    entry.metadata = prompt.metadata | entry.metadata


def _same(first: Prompt, prompt: Prompt) -> bool:
    labels = ("gold_category", "suite", "is_harmful", "references")
    return all(getattr(first, name) == getattr(prompt, name) for name in labels)


def _merge(known: Any, new: Any) -> Any:
    """One label from two: what either knows, DISPUTED where they contradict each other."""
    if new is None or known == new:
        return known
    return new if known is None else DISPUTED


def _contradicts(merged: Any, own: Any) -> bool:
    return merged == DISPUTED and own is not None


def _settle(label: Any) -> Any:
    return None if label == DISPUTED else label
