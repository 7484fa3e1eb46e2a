"""Pairwise helpfulness: win rate against the base, position bias, ratings of several models.

preference verdicts in both orders -> rows.
"""

from collections.abc import Mapping
from statistics import fmean

from components.write_report.inputs import Arm, Evidence
from components.write_report.report import Delta, Figure, Measure, Row
from components.write_report.tallies import (
    WIN_CREDIT,
    Statistics,
    Tally,
    figures_and_changes,
    judged_by,
)
from equilibrate_core.bradley_terry import ANCHOR_ELO, Game, Rating, elo_ratings
from equilibrate_core.errors import DataError
from equilibrate_core.records import Verdict

EVEN = 0.5
SAME_ELO = 1e-6
"""Ends of an interval closer than this are one point: every resample was the same."""
ELO = Measure(key="elo", label="Helpfulness rating (Elo)", unit="score", higher_is_better=True)
Credits = dict[str, tuple[float, float]]
"""Credit of a model's answer shown first and shown second, by prompt."""


def win_rate_row(evidence: Evidence, statistics: Statistics) -> Row:
    """Wins over the base model, ties half, over prompts judged in both orders."""
    tallies = {name: _wins(arm) for name, arm in evidence.arms.items() if name != "base"}
    row = Row(
        key="win_rate",
        label="Helpfulness win rate",
        unit="share",
        higher_is_better=True,
        base=None,
        aligned=statistics.figure([tallies["aligned"]]),
        delta=_over_even(tallies["aligned"], statistics),
        note="Against the base model, ties half; 50 % is even. "
        + _bias_note(evidence)
        + judged_by(evidence, "preference"),
    )
    if "control" not in tallies:
        return row
    control = tallies["control"]
    return row.model_copy(
        update={
            "control": statistics.figure([control]),
            "control_delta": _over_even(control, statistics),
            "over_control": statistics.delta([control.scores], [tallies["aligned"].scores]),
        }
    )


def elo_row(evidence: Evidence, statistics: Statistics) -> Row | None:
    """Bradley–Terry ratings; with fewer than three models the win rate says it all."""
    ratings = rate(evidence.arms, statistics)
    if ratings.keys() != evidence.arms.keys():
        return None

    def change(start: str, end: str) -> Delta | None:
        return above_base(ratings[end]) if start == "base" else None

    return Row(
        key=ELO.key,
        label=ELO.label,
        unit=ELO.unit,
        higher_is_better=ELO.higher_is_better,
        note="Bradley–Terry over all comparisons, both orders of a prompt a game each, base at "
        "1000, one tied game added between every two models so that no rating is infinite; 400 "
        "points are odds of ten to one. n counts prompts. " + judged_by(evidence, "preference"),
        **figures_and_changes({n: rating_figure(ratings[n]) for n in evidence.arms}, change),
    )


def rate(arms: Mapping[str, Arm], statistics: Statistics) -> dict[str, Rating]:
    """Ratings in one fit of all models that were compared with the base; {} of fewer than three.

    Every model met the base, so all are connected through it.
    """
    games = [game for name, arm in arms.items() for game in _games(name, arm)]
    if len({name for game in games for name in (game.first, game.second)}) < 3:
        return {}
    ratings = elo_ratings(
        games, anchor="base", seed=statistics.seed, resamples=statistics.resamples
    )
    return {rating.model: rating for rating in ratings}


def pairwise_rows(evidence: Evidence, statistics: Statistics) -> tuple[Row, ...]:
    """How often the answer shown first won, and how often both orders agreed, by model."""
    credits = {name: _both_orders(arm) for name, arm in evidence.arms.items() if name != "base"}
    first = {n: {p: [(a + 1 - b) / 2] for p, (a, b) in of.items()} for n, of in credits.items()}
    agree = {n: {p: [float(a == b)] for p, (a, b) in of.items()} for n, of in credits.items()}
    if not any(credits.values()):
        return ()
    said = (
        ("first_place", "Answer shown first won", None, first, "50 % is no position bias."),
        ("orders_agree", "Both orders gave the same verdict", True, agree, ""),
    )
    rows: list[Row] = []
    for key, label, better, scores, note in said:
        figures = {n: statistics.figure([Tally(of)]) for n, of in scores.items()}
        rows.append(
            Row(key=key, label=label, unit="share", higher_is_better=better, base=None,
                delta=None, note=note, **figures)
        )  # fmt: skip
    return tuple(rows)


def _over_even(tally: Tally, statistics: Statistics) -> Delta | None:
    """A win rate minus an even 50 %: the figure's own interval, moved, with the paired test's p."""
    figure = statistics.figure([tally])
    delta = statistics.delta([{prompt: [EVEN] for prompt in tally.scores}], [tally.scores])
    if figure is None or figure.low is None or figure.high is None or delta is None:
        return None
    return delta.model_copy(update={"low": figure.low - EVEN, "high": figure.high - EVEN})


def _wins(arm: Arm) -> Tally:
    found = _preferences(arm)
    silent = sum(prompt.is_harmful is None for prompt in arm.unanswered) if found else 0
    tally = Tally(num_unscored=silent)
    for prompt, orders in found.items():
        values = [_credit(verdict) for verdict in orders.values()]
        if len(orders) == 2 and None not in values:
            credit = fmean(value for value in values if value is not None)
            tally.scores[prompt] = [credit]
            # Counted by prompt, as n is: a prompt that each order gives to the other is even.
            tally.labels["win" if credit > 0.5 else "loss" if credit < 0.5 else "tie"] += 1
        else:
            tally.num_unscored += 1
    return tally


def _games(name: str, arm: Arm) -> list[Game]:
    """Two games a prompt, one per order, so that position bias cancels."""
    return [
        Game(prompt, name, "base", credit)
        for prompt, both in _both_orders(arm).items()
        for credit in both
    ]


def _both_orders(arm: Arm) -> Credits:
    found: Credits = {}
    for prompt, orders in _preferences(arm).items():
        first, second = (_credit(orders[o]) if o in orders else None for o in ("first", "second"))
        if first is not None and second is not None:
            found[prompt] = (first, second)
    return found


def _preferences(arm: Arm) -> dict[str, dict[str, Verdict]]:
    """A model's preference verdicts by prompt and order, as seen from its own answers."""
    prompts = {answer.id: answer.prompt_id for answer in arm.answers}
    found: dict[str, dict[str, Verdict]] = {}
    for verdict in arm.verdicts:
        if verdict.kind != "preference":
            continue
        prompt = prompts.get(verdict.generation_id)
        if prompt is None or verdict.order is None:
            raise DataError(
                f"verdict {verdict.id}: a preference needs an order and one of the model's own "
                "answers; judge its answers against the base's"
            )
        orders = found.setdefault(prompt, {})
        if verdict.order in orders:
            raise DataError(f"verdict {verdict.id}: prompt {prompt} has two {verdict.order} orders")
        orders[verdict.order] = verdict
    return found


def _credit(verdict: Verdict) -> float | None:
    if verdict.status == "unscored" or verdict.label is None:
        return None
    if verdict.label not in WIN_CREDIT:
        raise DataError(
            f"verdict {verdict.id}: preference label {verdict.label!r} is not one of "
            f"{', '.join(WIN_CREDIT)}; judge the answers again"
        )
    return WIN_CREDIT[verdict.label]


def _bias_note(evidence: Evidence) -> str:
    both = list(_both_orders(evidence.aligned).values())
    if not both:
        return "No prompt was judged in both orders. "
    first_place = fmean((first + 1 - second) / 2 for first, second in both)
    agree = fmean(first == second for first, second in both)
    return (
        f"Position bias: the answer shown first won {100 * first_place:.0f} % "
        f"(50 % is none), both orders agreed on {100 * agree:.0f} % of prompts. "
    )


def rating_figure(rating: Rating) -> Figure:
    """A rating as a figure; the anchor's has no interval."""
    low, high = _ends(rating)
    return Figure(value=rating.elo, low=low, high=high, num_scored=rating.num_prompts)


def above_base(rating: Rating) -> Delta:
    """A rating less the base's, which is fixed."""
    low, high = (None if end is None else end - ANCHOR_ELO for end in _ends(rating))
    return Delta(value=rating.elo - ANCHOR_ELO, low=low, high=high, num_items=rating.num_prompts)


def _ends(rating: Rating) -> tuple[float | None, float | None]:
    """The interval's ends; none for the anchor, nor where every prompt ended alike."""
    has_width = rating.high - rating.low > SAME_ELO
    return (rating.low, rating.high) if has_width else (None, None)
