"""Forward passes: bounded, of rows of like length, equally many on every process."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from equilibrate_core.batch_plan import evaluation_passes, micro_batches
from tests.equilibrate_core.test_training import settings, trained


def plan(
    lengths: list[int], *, size: int, tokens: int | None, world: int = 1
) -> list[list[tuple[list[int], list[float]]]]:
    config = settings(micro_batch_size=size, micro_batch_tokens=tokens)
    return [list(micro_batches(config, lengths, rank=r, world=world)) for r in range(world)]


def test_passes_are_cut_by_number_and_by_padded_tokens() -> None:
    (passes,) = plan([1, 2, 2, 3, 5, 9, 40], size=3, tokens=12)
    # 3 × 2 tokens; 3 + 5 would hold 2 × 5, with 9 they would hold 27; 9 and 40 go alone.
    assert [places for places, _ in passes] == [[0, 1, 2], [3, 4], [5], [6]]
    (unbounded,) = plan([1, 2, 2, 3, 5, 9, 40], size=3, tokens=None)
    assert [places for places, _ in unbounded] == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_evaluation_is_cut_by_the_same_rule_whatever_order_its_rows_have() -> None:
    config = settings(micro_batch_size=3, micro_batch_tokens=12)
    # The lengths above, shuffled.
    passes = evaluation_passes(config, [9, 2, 40, 1, 3, 5, 2])
    assert passes == [[3, 1, 6], [4, 5], [0], [2]]
    assert evaluation_passes(config, []) == []


def test_processes_take_equal_passes_and_a_missing_row_weighs_nothing() -> None:
    first, second = plan([1, 1, 4, 6, 9], size=2, tokens=12, world=2)
    assert first == [([0, 2], [1.0, 1.0]), ([4], [1.0])]
    assert second == [([1, 3], [1.0, 1.0]), ([0], [0.0])]


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30).map(sorted),
    size=st.integers(1, 5),
    tokens=st.none() | st.integers(1, 120),
    world=st.integers(1, 4),
)
@example(lengths=[1, 1, 1, 10], size=5, tokens=12, world=2)
def test_every_row_counts_once_on_one_process_whatever_the_bounds(
    lengths: list[int], size: int, tokens: int | None, world: int
) -> None:
    plans = plan(lengths, size=size, tokens=tokens, world=world)
    shapes = [[len(places) for places, _ in passes] for passes in plans]
    assert all(shape == shapes[0] for shape in shapes)
    counted = [
        place
        for passes in plans
        for places, weights in passes
        for place, weight in zip(places, weights, strict=True)
        if weight
    ]
    assert sorted(counted) == list(range(len(lengths)))
    for places, weights in (p for passes in plans for p in passes):
        assert len(places) <= size
        real = [lengths[p] for p, weight in zip(places, weights, strict=True) if weight]
        if tokens is not None and len(real) > 1:
            assert len(places) * max(real) <= tokens


def test_a_bound_on_tokens_changes_nothing_else() -> None:
    whole, whole_logs = trained(settings(micro_batch_size=3))
    parts, logs = trained(settings(micro_batch_size=3, micro_batch_tokens=4))
    assert parts == pytest.approx(whole, abs=1e-6)
    assert [r["loss"] for r in logs] == pytest.approx([r["loss"] for r in whole_logs], abs=1e-5)
