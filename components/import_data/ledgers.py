"""What has been seen so far: duplicates and contradictions among prompts and among pairs.

Reasons for dropping a row, each counted:
- exact_duplicate: the same prompt with the same labels, or the same pair, came before.
- merged_prompt: the prompt came before, with other labels or answers to fill in.
- conflicting_label: it came before with a contradicting label. One prompt stays, its gold category
  (or `is_harmful`) None; the first row counts as kept, the others as dropped. Likewise for a
  pair's safety flags. A suite's prompt with a disputed `is_harmful` is marked in its metadata
  (`is_harmful_disputed`): it stays out of training like all of its suite, and out of evaluation.
- conflicting_preference: the same two answers are preferred both ways along one dimension; all
  rows of both orders go.

No row goes for a disputed answer: one that is safe by one pair and unsafe by another pair of its
prompt. Its safety flag is None in every pair that holds it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from components.import_data.keys import Keys
from equilibrate_core.records import HARM_DISPUTED, pair_id

EXACT_DUPLICATE = "exact_duplicate"
MERGED_PROMPT = "merged_prompt"
CONFLICTING_LABEL = "conflicting_label"
CONFLICTING_PREFERENCE = "conflicting_preference"
REASONS = (EXACT_DUPLICATE, MERGED_PROMPT, CONFLICTING_LABEL, CONFLICTING_PREFERENCE)
DISPUTED: Final = "disputed"
"""Label on which rows contradict each other; it leaves as None and never becomes known again."""


Flags = tuple[bool | None, bool | None]
"""Whether the chosen and the rejected answer are safe."""
FLAGS = ("chosen_is_safe", "rejected_is_safe")


def flags_of(pairs: pa.Table) -> list[tuple[str, Flags]]:
    """Id and safety flags of each pair."""
    flags = zip(*(pairs[name].to_pylist() for name in FLAGS), strict=True)
    return list(zip(pairs["id"].to_pylist(), flags, strict=True))


CLOSED = ("gold_category", "is_harmful", "suite")


class Labels(NamedTuple):
    """What later rows may add to a prompt."""

    gold_category: str | None
    is_harmful: bool | None
    suite: str | None
    references: tuple[str, ...]
    metadata: dict[str, str]


def labels_of(prompts: pa.Table) -> list[Labels]:
    """What later rows may add to these prompts; those that say the same share one object."""
    closed = [prompts[name].to_pylist() for name in CLOSED]
    references = map(tuple, _lists(prompts["references"]))
    metadata = map(tuple, _lists(prompts["metadata"]))
    rows = list(zip(*closed, references, metadata, strict=True))
    labels = {row: Labels(*row[:-1], metadata=dict(row[-1])) for row in set(rows)}
    return list(map(labels.__getitem__, rows))


def _lists(column: pa.ChunkedArray) -> list[list[Any]]:
    """Values of a column of lists; most columns have none, which tells itself much faster."""
    lists = column.combine_chunks()
    first, *_, last = np.asarray(lists.offsets) if len(lists) else (0, 0)
    return lists.to_pylist() if last > first else [[]] * len(lists)


@dataclass
class _Entry:
    """A prompt that came more than once; most never do."""

    first: Labels
    gold_category: str | None
    is_harmful: bool | str | None
    suite: str | None
    references: tuple[str, ...]
    metadata: dict[str, str]
    other_suites: tuple[str, ...] = ()

    def settled(self) -> Labels:
        """The labels, disputed ones as None."""
        metadata = dict(self.metadata)
        if self.other_suites:
            metadata["also_in_suites"] = ",".join(self.other_suites)
        if self.suite is not None and self.is_harmful == DISPUTED:
            metadata[HARM_DISPUTED] = "true"
        return Labels(
            gold_category=_settle(self.gold_category),
            is_harmful=_settle(self.is_harmful),
            suite=self.suite,
            references=self.references,
            metadata=metadata,
        )


class PromptLedger:
    """Every prompt's labels once, completed by later rows.

    Of prompts that came in whole blocks, the labels stay in their tables until somebody asks; while
    no prompt has come twice, numbers tell whether one does.

    The first source keeps the prompt. A suite wins over none, and then its `is_harmful` too; a
    second suite is noted in metadata as `also_in_suites`.
    """

    def __init__(self) -> None:
        self._keys: Keys | None = Keys()
        self._blocks: list[tuple[int, pa.Table]] = []
        self._known: dict[str, Labels | int] = {}
        self._num_known = self._num_in_blocks = self._num_in_suites = 0
        self._repeated: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._labels) if self._keys is None else self._num_in_blocks

    @property
    def _labels(self) -> dict[str, Labels | int]:
        """What the first row of each prompt said, or its number among the rows of blocks."""
        for start, prompts in self._blocks[self._num_known :]:
            self._known.update(zip(prompts["id"].to_pylist(), count(start), strict=False))
        self._num_known = len(self._blocks)
        return self._known

    @property
    def repeated(self) -> Collection[str]:
        """Ids of the prompts that came more than once."""
        return self._repeated.keys()

    def add_new(self, prompts: pa.Table) -> bool:
        """Enter these prompts if none of them came before; whether that was so."""
        if not self._are_new(prompts["id"]):
            return False
        self._blocks.append((self._num_in_blocks, prompts.select(("id", *Labels._fields))))
        self._num_in_blocks += prompts.num_rows
        self._num_in_suites += prompts.num_rows - prompts["suite"].null_count
        return True

    def _are_new(self, ids: pa.ChunkedArray) -> bool:
        if self._keys is not None and self._keys.add_new(ids):
            return True
        self._keys = None
        names = ids.to_pylist()
        return len(set(names)) == len(names) and self._labels.keys().isdisjoint(names)

    def add(self, prompt: str, labels: Labels, *, is_pair: bool) -> str | None:
        """Enter the prompt with this id; why its row is dropped, or None when it is new."""
        self._keys = None
        if prompt not in self._labels:
            self._known[prompt] = labels
            self._num_in_suites += labels.suite is not None
            return None
        first = self._first(prompt)
        entry = self._repeated.get(prompt)
        if entry is None:
            entry = self._repeated[prompt] = _Entry(first, **first._asdict())
        category, is_harmful = _merged_labels(entry, labels)
        contradicts = _contradicts(category, labels.gold_category) or _contradicts(
            is_harmful, labels.is_harmful
        )
        entry.gold_category, entry.is_harmful = category, is_harmful
        _complete(entry, labels)
        if contradicts:
            return CONFLICTING_LABEL
        return EXACT_DUPLICATE if not is_pair and _same(first, labels) else MERGED_PROMPT

    def num_in_suites(self) -> int:
        """Prompts that belong to an evaluation suite."""
        entries = self._repeated.values()
        joined = sum(e.first.suite is None and e.suite is not None for e in entries)
        return self._num_in_suites + joined

    def num_disputed(self) -> int:
        """Prompts of a suite that are harmful by one source and benign by another."""
        return sum(HARM_DISPUTED in e.settled().metadata for e in self._repeated.values())

    def _first(self, prompt: str) -> Labels:
        """What the first row of a prompt said."""
        labels = self._labels[prompt]
        if isinstance(labels, Labels):
            return labels
        start, prompts = self._blocks[bisect_right(self._blocks, labels, key=itemgetter(0)) - 1]
        (first,) = labels_of(prompts.slice(labels - start, 1))
        return first

    def settled(self, prompt: str) -> Labels:
        """Labels of a prompt that came more than once, disputed ones as None."""
        return self._repeated[prompt].settled()


class PairLedger:
    """Which pairs were seen, by their ids, and what is known of the safety of their answers.

    An answer's pairs testify whatever their dimension and source, those that are dropped too. Only
    the disputed answers are held for good: two numbers a pair are, while they are looked for.
    """

    def __init__(self) -> None:
        self._entered: dict[str, tuple[Any, Any]] = {}
        self._new: list[pa.Table] = []
        self._disputed: set[int] = set()

    @property
    def _flags(self) -> dict[str, tuple[Any, Any]]:
        """What each pair says of its answers."""
        for pairs in self._new:
            self._entered.update(flags_of(pairs))
        self._new.clear()
        return self._entered

    def add_new(self, pairs: pa.Table) -> None:
        """Enter pairs of prompts that never came before; nobody may ever ask for them."""
        self._new.append(pairs.select(("id", *FLAGS)))

    def add(self, pair: str, flags: Flags) -> str | None:
        """Enter the pair with this id; the reason it is dropped at once, if it is."""
        seen = self._flags.get(pair)
        if seen is None:
            self._flags[pair] = flags
            return None
        merged = (_merge(seen[0], flags[0]), _merge(seen[1], flags[1]))
        self._flags[pair] = merged
        contradicts = _contradicts(merged[0], flags[0]) or _contradicts(merged[1], flags[1])
        return CONFLICTING_LABEL if contradicts else EXACT_DUPLICATE

    def find_disputed(self, pairs: Iterable[tuple[str, tuple[int, int]]]) -> None:
        """Compare what pairs say of their answers: each pair's id, and its answers' keys."""
        safe, unsafe = array("Q"), array("Q")
        for pair, answers in pairs:
            for answer, flag in zip(answers, self._flags[pair], strict=True):
                if flag in (True, DISPUTED):
                    safe.append(answer)
                if flag in (False, DISPUTED):
                    unsafe.append(answer)
        self._disputed = set(np.intersect1d(safe, unsafe).tolist())

    def num_disputed(self) -> int:
        """Answers that are safe in one pair and unsafe in another of the same prompt."""
        return len(self._disputed)

    def settled(self, pair: str, answers: tuple[int, int]) -> Flags:
        """What is known of a pair's safety, disputed flags as None; needs `find_disputed`."""
        chosen, rejected = (
            None if answer in self._disputed else _settle(flag)
            for answer, flag in zip(answers, self._flags[pair], strict=True)
        )
        return chosen, rejected

    def is_contradicted(self, prompt: str, chosen: str, rejected: str, dimension: str) -> bool:
        """Whether the two answers are also preferred the other way round."""
        return pair_id(prompt, rejected, chosen, dimension) in self._flags


def _merged_labels(entry: _Entry, prompt: Labels) -> tuple[Any, Any]:
    category = _merge(entry.gold_category, prompt.gold_category)
    if (entry.suite is None) == (prompt.suite is None):
        return category, _merge(entry.is_harmful, prompt.is_harmful)
    suite_says, other_says = prompt.is_harmful, entry.is_harmful
    if prompt.suite is None:
        suite_says, other_says = other_says, suite_says
    return category, other_says if suite_says is None else suite_says


def _complete(entry: _Entry, prompt: Labels) -> None:
    if entry.suite is None:
        entry.suite = prompt.suite
    elif prompt.suite not in (None, entry.suite, *entry.other_suites):
        entry.other_suites += (str(prompt.suite),)
    entry.references = tuple(dict.fromkeys(entry.references + prompt.references))
    entry.metadata = prompt.metadata | entry.metadata


def _same(first: Labels, prompt: Labels) -> bool:
    return first[:4] == prompt[:4]  # all but the metadata


def _merge(known: Any, new: Any) -> Any:
    """One label from two: what either knows, DISPUTED where they contradict each other."""
    if new is None or known == new:
        return known
    return new if known is None else DISPUTED


def _contradicts(merged: Any, own: Any) -> bool:
    return merged == DISPUTED and own is not None


def _settle(label: Any) -> Any:
    return None if label == DISPUTED else label
