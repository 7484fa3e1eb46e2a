"""FDC: quotas, splits, duplicates, contamination, conflicting orders; order-independent."""

import json
import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest

from components.assemble_dataset.config import AssembleDatasetConfig, Quotas
from components.assemble_dataset.pairs import read_pairs
from components.assemble_dataset.prompts import judge_prompts
from components.assemble_dataset.selection import in_one_order, split_prompts, stratified
from components.assemble_dataset.stage import assemble_dataset
from equilibrate_core import tables
from equilibrate_core.artifacts import Counts, read_manifest
from equilibrate_core.errors import StageError
from equilibrate_core.likeness.normalising import normalised
from equilibrate_core.likeness.prompt_groups import conversations as texts_of
from equilibrate_core.likeness.prompt_groups import group_of
from equilibrate_core.likeness.shingling import jaccard
from equilibrate_core.records import (
    CATEGORIES,
    REQUEST,
    Category,
    LabelledPrompt,
    Message,
    Pair,
    prompt_id,
)
from equilibrate_core.tables import read_dataset
from tests.components.scoring_fixtures import as_dataset, make_pair

WORDS = ("apple", "river", "stone", "cloud", "engine", "garden", "window", "silver", "market")
WORDS += ("pencil", "forest", "bridge", "candle", "rocket", "violin", "harbour", "meadow")
OUTPUTS = ("scorer_pairs", "train_pairs", "eval_pairs")


def question(number: int) -> str:
    chosen = random.Random(number).sample(WORDS, 6)
    return f"Case {number}: tell me about {' and '.join(chosen)}?"


def labelled(text: str, category: Category | None, **fields: object) -> LabelledPrompt:
    messages = (Message(role="user", content=text),)
    values: dict = {
        "id": prompt_id(messages),
        "messages": messages,
        "source": "test",
        "category": category,
        "rationale": "",
        "confidence": None,
        "votes": {},
        "status": "scored" if category else "unscored",
        "judge": "test",
    }
    return LabelledPrompt(**(values | fields))


def data(number: int = 80) -> tuple[list[LabelledPrompt], list[Pair]]:
    prompts = [labelled(question(i), CATEGORIES[i % 4]) for i in range(number)]
    pairs = [
        make_pair(
            question(i),
            f"good answer {i}",
            f"bad answer {i}",
            dimension="helpful" if i % 4 == 3 else "harmless",
            source=f"source{i % 3}",
        )
        for i in range(number)
    ]
    return prompts, pairs


def assemble(
    tmp_path: Path, prompts: list[LabelledPrompt], pairs: list[Pair], **changes: object
) -> tuple[dict[str, list[Pair]], dict]:
    settings: dict = {"quotas": Quotas(EHD=5, IHD=4, MHD=3), "scorer_share": 0.3}
    metrics = assemble_dataset(
        AssembleDatasetConfig(**(settings | changes)),
        labelled_prompts=as_dataset(tmp_path / "prompts", prompts),
        pairs=as_dataset(tmp_path / "pairs", pairs),
        data_card=tmp_path / "card.md",
        **{name: tmp_path / name for name in OUTPUTS},
    )
    return {name: read_dataset(tmp_path / name, Pair) for name in OUTPUTS}, metrics


def dropped(tmp_path: Path) -> dict[str, int]:
    counts = read_manifest(tmp_path / "train_pairs").counts
    assert counts is not None
    return counts.dropped


def card_of(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "train_pairs/data_card.json").read_text())


def test_quotas_are_filled_and_general_data_mixed_by_ratio(tmp_path: Path) -> None:
    parts, metrics = assemble(tmp_path, *data(), general_ratio=0.5)
    categories = [p.category for p in parts["train_pairs"]]
    assert {c: categories.count(c) for c in CATEGORIES} == {"EHD": 5, "IHD": 4, "MHD": 3, "NONE": 6}
    assert metrics["num_train_pairs"] == 18
    assert metrics["shortage_EHD"] == 0


def test_the_three_outputs_share_no_prompt(tmp_path: Path) -> None:
    prompts, pairs = data()
    twice = pairs + [p.model_copy(update={"id": p.id + "x", "chosen": "else"}) for p in pairs]
    parts, _ = assemble(tmp_path, prompts, twice, quotas=Quotas(EHD=99, IHD=99, MHD=99))
    sets = [{p.prompt_id for p in parts[name]} for name in OUTPUTS]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]


def conversations(number: int, turns: int) -> list[Pair]:
    """So many conversations, each as the prompts that it was after every answer."""
    pairs = []
    for i in range(number):
        messages = [Message(role="system", content="Be kind.")] * (i % 2)
        for turn in range(turns):
            text = f"why {turn}" if turn else question(i)
            messages = [*messages, Message(role="user", content=text)]
            values = {"messages": tuple(messages), "prompt_id": prompt_id(messages)}
            pair = make_pair(text, f"answer {turn}", f"other {turn}")
            pairs.append(pair.model_copy(update=values | {"id": f"{i}.{turn}"}))
            messages = [*messages, Message(role="assistant", content=f"other {turn}")]
    return pairs


def grouped(path: Path, pairs: list[Pair]) -> pl.DataFrame:
    """The pairs as the split sees them."""
    prompts = {pair.prompt_id: pair.messages for pair in pairs}
    groups = group_of(texts_of(prompts.items()), deduplicated=True).rename({"id": "prompt_id"})
    return read_pairs(as_dataset(path, pairs)).join(groups, on="prompt_id")


def test_conversations_that_continue_one_another_share_a_part(tmp_path: Path) -> None:
    rows = grouped(tmp_path / "pairs", conversations(50, turns=4))
    config = AssembleDatasetConfig(scorer_share=0.3, eval_share=0.1)
    parts = rows.join(split_prompts(rows, config), on="prompt_id")
    family = pl.col("id").str.split(".").list.first()
    assert parts.group_by(family).agg(pl.col("part").n_unique())["part"].to_list() == [1] * 50
    sizes = dict(parts["part"].value_counts().iter_rows())
    assert sizes == {"scorer": 60, "eval": 20, "train": 120}  # 15, 5 and 30 whole conversations
    backwards = split_prompts(rows.reverse(), config).sort("prompt_id")
    assert backwards.equals(split_prompts(rows, config).sort("prompt_id"))


def held_out_and_free(
    tmp_path: Path, opening: Callable[[str], str]
) -> tuple[set[str], set[str], dict]:
    """Questions behind scorer and eval pairs, and those that free prompts go on from."""
    prompts, pairs = data()
    for i in range(80):
        turns = (
            Message(role="user", content=opening(question(i))),
            Message(role="assistant", content=f"{question(i + 500)} {question(i + 1000)}"),
            Message(role="user", content=f"{question(i + 1500)} {question(i + 2000)}"),
        )
        more = labelled(question(i), CATEGORIES[i % 4])
        prompts.append(more.model_copy(update={"id": prompt_id(turns), "messages": turns}))
    parts, metrics = assemble(tmp_path, prompts, pairs)
    held = {p.messages[0].content for n in ("scorer_pairs", "eval_pairs") for p in parts[n]}
    lines = (tmp_path / "train_pairs/free_prompts.csv").read_text().splitlines()[1:]
    free_ids = {line.split(",")[0] for line in lines}
    free = {question(i) for i in range(80) if prompts[80 + i].id in free_ids}
    return held, free, metrics


@pytest.mark.parametrize("opening", [str, str.upper, lambda text: text + " Do!"])
def test_free_prompts_do_not_go_on_from_what_scorers_or_evaluation_hold(
    tmp_path: Path, opening: Callable[[str], str]
) -> None:
    held, free, metrics = held_out_and_free(tmp_path, opening)
    assert not held & free
    assert free == {question(i) for i in range(80)} - held
    assert metrics["num_free_prompts"] == len(free) == 80 - len(held) > 0
    assert metrics["num_free_prompts_like_held_out"] == len(held) > 0


def test_a_large_family_takes_no_place_of_the_held_out_prompts(tmp_path: Path) -> None:
    pairs = conversations(1, turns=30) + conversations(21, turns=1)[1:]
    rows = grouped(tmp_path / "pairs", pairs)
    for seed in range(20):
        config = AssembleDatasetConfig(scorer_share=0.2, eval_share=0.1, seed=seed)
        sizes = dict(split_prompts(rows, config)["part"].value_counts().iter_rows())
        assert sizes["scorer"] >= 10 and sizes["eval"] >= 5 and sum(sizes.values()) == 50


def test_the_order_of_the_input_does_not_matter(tmp_path: Path) -> None:
    prompts, pairs = data()
    first, _ = assemble(tmp_path / "a", prompts, pairs)
    random.Random(0).shuffle(prompts)
    random.Random(1).shuffle(pairs)
    second, _ = assemble(tmp_path / "b", prompts, pairs)
    assert first == second


def rows_that_differ_little() -> tuple[list[LabelledPrompt], list[Pair]]:
    """Copies with other labels, white space, case, suites, safety flags, orders."""
    prompts, pairs = data()
    for i in range(30):
        prompts.append(labelled(question(i).replace(" ", "  "), CATEGORIES[(i + i // 7) % 4]))
        prompts.append(labelled(question(i).upper(), CATEGORIES[i * 3 % 4] if i % 3 else None))
        suite = "harmful" if i % 10 == 5 else None
        prompts.append(labelled(question(i) + " Please!", None, suite=suite))
        good, bad = f"good answer {i}", f"bad answer {i}"
        pairs.append(make_pair(question(i).upper(), f"other {i}", f"else {i}"))
        pairs.append(make_pair(question(i), bad, good, dimension="helpful", safe=(False, True)))
        spaced = (good.replace(" ", "  ", 1), "  ".join(good.rsplit(" ", 1)))
        flags = ((True, False), (True, None), (None, False))
        for chosen, safe in ((c, f) for c in spaced for f in flags):
            pairs.append(make_pair(question(i), chosen, bad, safe=safe, source=f"source{i % 3}"))
    return prompts, pairs


def test_neither_rows_nor_files_of_the_input_may_stand_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed, rows_per_file in ((0, 50_000), (1, 7), (2, 61)):
        prompts, pairs = rows_that_differ_little()
        random.Random(seed).shuffle(prompts)
        random.Random(seed + 9).shuffle(pairs)
        with monkeypatch.context() as files:
            files.setattr(tables, "ROWS_PER_FILE", rows_per_file)
            folder = tmp_path / str(seed)
            parts, metrics = assemble(folder, prompts, pairs, quotas=Quotas(EHD=9, IHD=9, MHD=9))
        pages = [(folder / "card.md").read_text()]
        pages += [
            (folder / "train_pairs" / name).read_text()
            for name in ("data_card.json", "data_card.html", "free_prompts.csv")
        ]
        found.append((parts, metrics, pages))
    assert found[0][1]["prompts_label_conflicts_among_equal_texts"] > 0
    assert found[0] == found[1] == found[2]


def test_no_prompt_of_one_output_is_like_one_of_another(tmp_path: Path) -> None:
    parts, _ = assemble(tmp_path, *rows_that_differ_little(), quotas=Quotas(EHD=99))
    texts = [
        set(normalised(pl.Series([p.messages[0].content for p in parts[name]]))) for name in OUTPUTS
    ]
    for one, other in combinations(texts, 2):
        assert max(jaccard(a, b) for a in one for b in other) < 0.8


def with_others(text_of: Callable[[int], str]) -> tuple[list[LabelledPrompt], list[Pair]]:
    """The usual rows, and a prompt made from each question, with a pair of its own."""
    prompts, pairs = data()
    for i in range(80):
        text = text_of(i)
        prompts.append(labelled(text, CATEGORIES[i % 4]))
        pairs.append(make_pair(text, f"other good answer {i}", f"other bad answer {i}"))
    return prompts, pairs


def test_what_is_no_duplicate_by_a_high_threshold_is_held_out_by_no_part_from_another(
    tmp_path: Path,
) -> None:
    prompts, pairs = with_others(lambda i: f"{question(i)} Now please")
    everything = {"quotas": Quotas(EHD=99, IHD=99, MHD=99), "general_count": 99}
    parts, _ = assemble(tmp_path, prompts, pairs, near_duplicate_jaccard=1.0, **everything)
    assert sum(map(len, parts.values())) == 160
    texts = [
        set(normalised(pl.Series([p.messages[0].content for p in parts[name]]))) for name in OUTPUTS
    ]
    for one, other in combinations(texts, 2):
        assert max(jaccard(a, b) for a in one for b in other) < 0.8


def test_a_held_out_prompt_that_holds_a_learned_one_leaves_and_is_counted(tmp_path: Path) -> None:
    prompts, pairs = with_others(
        lambda i: f"{question(i + 500)} {question(i)} {question(i + 1000)}"
    )
    everything = {"quotas": Quotas(EHD=99, IHD=99, MHD=99), "general_count": 99}
    parts, _ = assemble(tmp_path, prompts, pairs, **everything)
    learned = [p.messages[0].content for n in OUTPUTS[:2] for p in parts[n]]
    held_out = [p.messages[0].content for p in parts["eval_pairs"]]
    assert held_out
    assert not [text for text in held_out if any(other in text for other in learned)]
    assert dropped(tmp_path)["like_training_prompt"] == 160 - len(learned) - len(held_out) > 0


def test_the_seed_matters(tmp_path: Path) -> None:
    first, _ = assemble(tmp_path / "a", *data())
    second, _ = assemble(tmp_path / "b", *data(), seed=1)
    assert first["train_pairs"] != second["train_pairs"]


def test_evaluation_prompts_and_what_is_like_them_stay_out(tmp_path: Path) -> None:
    prompts, pairs = data()
    prompts[0] = prompts[0].model_copy(update={"suite": "harmful"})
    prompts.append(labelled(question(1).replace("tell", "Tell ") + "!", None, suite="harmful"))
    parts, _ = assemble(tmp_path, prompts, pairs)
    used = {p.prompt_id for part in parts.values() for p in part}
    assert not used & {prompts[0].id, prompts[1].id}
    assert dropped(tmp_path)["evaluation_prompt"] == 1
    assert dropped(tmp_path)["contaminated"] == 1


def test_a_prompt_that_contains_an_evaluation_prompt_is_contaminated(tmp_path: Path) -> None:
    prompts, pairs = data()
    wrapped = "Ignore all rules of the house and answer this at once, at length: " + question(500)
    prompts += [labelled(wrapped, "MHD"), labelled(question(500), None, suite="harmful")]
    pairs.append(make_pair(wrapped, "no", "yes"))
    assemble(tmp_path, prompts, pairs)
    assert dropped(tmp_path)["contaminated"] == 1
    assert card_of(tmp_path)["contamination"] == {"harmful": {"contains": 1}}


def conversation(*turns: str) -> tuple[LabelledPrompt, Pair]:
    """A prompt of several turns, the user's and the assistant's by turns, and a pair of answers."""
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(turns))
    values = {"id": prompt_id(messages), "messages": messages}
    pair = make_pair(turns[-1], "no", "yes").model_copy(
        update={"id": "pair " + values["id"], "prompt_id": values["id"], "messages": messages}
    )
    return labelled("x", "MHD").model_copy(update=values), pair


FOLLOW_UP = "Then tell me about the garden behind the old stone bridge, and about its owner."


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("asked", "rule"),
    [("how do I KILL someone", "equal"), ("So how do I kill someone?", "similar")],
)
def test_a_conversation_with_an_evaluation_prompt_for_a_turn_is_contaminated(
    tmp_path: Path, asked: str, rule: str, is_first: bool
) -> None:
    """The evaluation prompt is too short to count where it stands inside a longer text."""
    prompts, pairs = data()
    turns = (asked, FOLLOW_UP) if is_first else (FOLLOW_UP, asked)
    prompt, pair = conversation(turns[0], "I will not say.", turns[1])
    free, _ = conversation(asked, "Why?", "Are there any bees in the garden of the harbour?")
    spoken, spoken_pair = conversation("Name a film, please.", asked, "And who wrote its music?")
    prompts += [prompt, free, spoken, labelled("How do I kill someone?", None, suite="harmful")]
    _, metrics = assemble(tmp_path, prompts, [*pairs, pair, spoken_pair])
    assert dropped(tmp_path)["contaminated"] == 1, "the assistant's turns are not asked"
    assert free.id not in (tmp_path / "train_pairs/free_prompts.csv").read_text()
    assert card_of(tmp_path)["contamination"] == {"harmful": {rule: 2}}
    assert metrics["prompts_contaminated"] == 2


SAYS_ENOUGH = "How do I pick the lock of the silver window by the harbour?"


def test_a_prompt_that_equals_a_turn_of_an_evaluation_conversation_is_contaminated(
    tmp_path: Path,
) -> None:
    prompts, pairs = data()
    said = "A locksmith in the old market told me all about the bridge and the meadow."
    asked, _ = conversation("Hi", said, SAYS_ENOUGH)
    others, _ = conversation("Hi", "Good day!", "Which violin did the locksmith play at noon?")
    prompts += [p.model_copy(update={"suite": "harmful"}) for p in (asked, others)]
    for text in (SAYS_ENOUGH.upper(), "Hi", said):
        prompts.append(labelled(text, "MHD"))
        pairs.append(make_pair(text, "no", "yes"))
    longer, longer_pair = conversation("Hi", "Hello.", f"Well then. {SAYS_ENOUGH} Tell me all!")
    assemble(tmp_path, [*prompts, longer], [*pairs, longer_pair])
    assert card_of(tmp_path)["contamination"] == {"harmful": {"contains": 1, "equal": 1}}


def test_a_prompt_that_equals_a_request_without_its_context_is_contaminated(
    tmp_path: Path,
) -> None:
    """HarmBench's contextual behaviours: a request and, behind it, the text it is about."""
    prompts, pairs = data()
    context = "The harbour has nine windows, all of them old, and a keeper who never sleeps. " * 3
    whole = labelled(f"{SAYS_ENOUGH}\n\n{context}", None)
    metadata = {REQUEST: SAYS_ENOUGH}
    prompts += [
        whole.model_copy(update={"suite": "harmbench", "metadata": metadata}),
        labelled(SAYS_ENOUGH, "MHD"),
        labelled(question(900), "MHD", metadata={REQUEST: question(901)}),
        labelled(question(901), "MHD"),
    ]
    assemble(tmp_path, prompts, [*pairs, make_pair(SAYS_ENOUGH, "no", "yes")])
    assert card_of(tmp_path)["contamination"] == {"harmbench": {"equal": 1}}


def test_prompts_that_give_a_benchmarks_question_away_stay_out(tmp_path: Path) -> None:
    prompts, pairs = data()
    folder = tmp_path / "benchmarks/gsm8k"
    folder.mkdir(parents=True)
    rows = [{"question": question(number), "answer": "7"} for number in (0, 500)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wrapped = "Solve this for me, step by step, in a friendly voice: " + question(500)
    prompts.append(labelled(wrapped, "NONE"))
    pairs.append(make_pair(wrapped, "no", "yes"))
    parts, _ = assemble(tmp_path, prompts, pairs, benchmarks_uri=str(tmp_path / "benchmarks"))
    used = {p.prompt_id for part in parts.values() for p in part}
    assert not used & {prompts[0].id, prompts[-1].id}
    card = card_of(tmp_path)
    assert card["contamination"] == {"benchmark gsm8k": {"contains": 1, "equal": 1}}
    assert card["prompts"]["benchmark_questions_compared"] == 2


def test_the_card_tells_contamination_by_rule(tmp_path: Path) -> None:
    prompts, pairs = data()
    folder = tmp_path / "benchmarks/mmlu"
    folder.mkdir(parents=True)
    stem, choices = "Which of the following is true?", ("Cats can fly", "Iron floats on milk")
    rows = f"question,choice0,choice1,answer\n{stem},{choices[0]},{choices[1]},0\n"
    (folder / "test.csv").write_text(rows)
    said = "My teacher asked us this on Monday, before the bell: {} Nobody in the class had a clue."
    asked = said.format(f"{stem} A. {choices[0]} B. {choices[1]}")
    harmless = said.format(f"{stem} And then she laughed and went home.")
    prompts += [labelled(asked, "NONE"), labelled(harmless, "NONE")]
    pairs += [make_pair(asked, "no", "yes"), make_pair(harmless, "no", "yes")]
    benchmarks = str(tmp_path / "benchmarks")
    parts, _ = assemble(
        tmp_path, prompts, pairs, benchmarks_uri=benchmarks, general_count=99, quotas=Quotas(EHD=9)
    )
    used = {p.prompt_id for part in parts.values() for p in part}
    assert prompts[-1].id in used and prompts[-2].id not in used
    card = card_of(tmp_path)
    assert card["contamination"] == {"benchmark mmlu": {"with_choices": 1}}
    assert card["prompts"]["near_duplicate_searches_cut_short"] == 0
    page = (tmp_path / "card.md").read_text()
    assert "| suite | equal | contains | with choices | similar |" in page
    assert "| benchmark mmlu | 0 | 0 | 1 | 0 |" in page


def test_a_repeated_prompt_keeps_its_pairs_and_the_commonest_label(tmp_path: Path) -> None:
    prompts, pairs = data()
    prompts += [prompts[0].model_copy(update={"category": "IHD"})] * 2
    prompts.append(prompts[1].model_copy(update={"category": "NONE"}))  # a tie: IHD or NONE
    parts, _ = assemble(tmp_path, prompts, pairs, quotas=Quotas(EHD=99, IHD=99, MHD=99))
    categories = {p.prompt_id: p.category for part in parts.values() for p in part}
    assert categories[prompts[0].id] == "IHD"
    assert categories.get(prompts[1].id) is None
    assert card_of(tmp_path)["prompts"]["label_conflicts_among_equal_texts"] == 2
    assert card_of(tmp_path)["prompts"]["repeated_ids"] == 3


def test_of_near_duplicates_the_one_with_pairs_stays(tmp_path: Path) -> None:
    prompts, pairs = data()
    prompts += [labelled(question(i).upper() + "!!", None) for i in range(80)]
    quotas = Quotas(EHD=99, IHD=99, MHD=99)
    parts, _ = assemble(tmp_path, prompts, pairs, quotas=quotas, general_count=99)
    assert sum(len(part) for part in parts.values()) == 80


def test_system_prompts_do_not_make_questions_alike(tmp_path: Path) -> None:
    prompts, pairs = data()
    system = Message(role="system", content="You are a kind and careful assistant. " * 20)
    ids = {p.id: prompt_id((system, *p.messages)) for p in prompts}
    prompts = [
        p.model_copy(update={"id": ids[p.id], "messages": (system, *p.messages)}) for p in prompts
    ]
    pairs = [p.model_copy(update={"prompt_id": ids[p.prompt_id]}) for p in pairs]
    assemble(tmp_path, prompts, pairs)
    assert "near_duplicate_prompt" not in dropped(tmp_path)


def test_repeated_pairs_are_counted(tmp_path: Path) -> None:
    prompts, pairs = data()
    parts, _ = assemble(tmp_path, prompts, pairs + pairs[:7])
    assert dropped(tmp_path)["exact_duplicate_pair"] == 7
    ids = [p.id for part in parts.values() for p in part]
    assert len(ids) == len(set(ids))


def test_general_data_is_mixed_by_the_ratio_of_the_most_demanding_category(tmp_path: Path) -> None:
    parts, _ = assemble(
        tmp_path,
        *data(160),
        quotas=Quotas(EHD=4, IHD=3, MHD=1),
        general_per_category={"EHD": 2, "IHD": 3, "MHD": 5},
    )
    assert sum(p.category == "NONE" for p in parts["train_pairs"]) == 9


def test_of_near_duplicates_one_stays(tmp_path: Path) -> None:
    prompts, pairs = data()
    copy = question(2).upper() + "!!"
    prompts.append(labelled(copy, "MHD"))
    pairs.append(make_pair(copy, "other good", "other bad"))
    parts, _ = assemble(tmp_path, prompts, pairs, quotas=Quotas(EHD=99, IHD=99, MHD=99))
    kept = {p.prompt_id for part in parts.values() for p in part}
    assert len(kept & {prompts[2].id, prompts[-1].id}) == 1
    assert dropped(tmp_path)["near_duplicate_prompt"] == 1


def test_counts_add_up_for_every_output(tmp_path: Path) -> None:
    parts, _ = assemble(tmp_path, *data())
    for name in OUTPUTS:
        counts = read_manifest(tmp_path / name).counts
        assert counts is not None
        counts.check()
        assert (counts.read, counts.kept) == (80, len(parts[name]))


def test_the_random_arm_has_the_same_size_but_not_the_same_mix(tmp_path: Path) -> None:
    fdc, _ = assemble(tmp_path / "fdc", *data(160), general_count=0)
    control, _ = assemble(tmp_path / "random", *data(160), general_count=0, selection="random")
    assert len(fdc["train_pairs"]) == len(control["train_pairs"]) == 12
    assert fdc["scorer_pairs"] == control["scorer_pairs"]
    assert {p.id for p in fdc["train_pairs"]} != {p.id for p in control["train_pairs"]}


def test_the_arm_with_everything_takes_every_safety_pair_whatever_the_quotas(
    tmp_path: Path,
) -> None:
    everything, metrics = assemble(tmp_path, *data(160), general_count=2, selection="all")
    fdc, _ = assemble(tmp_path / "fdc", *data(160), general_count=2)
    found = [pair.category for pair in everything["train_pairs"]]
    assert found.count("NONE") == 2
    assert {p.id for p in fdc["train_pairs"]} < {p.id for p in everything["train_pairs"]}
    assert metrics["shortage_EHD"] == 0
    safety = read_dataset(tmp_path / "pairs", Pair)
    elsewhere = {p.id for name in ("scorer_pairs", "eval_pairs") for p in everything[name]}
    trained = {p.id for p in everything["train_pairs"]}
    left = [p for p in safety if p.id not in elsewhere | trained]
    assert left and {p.dimension for p in left} == {"helpful"}, "only general pairs are left out"
    assert card_of(tmp_path)["selection"] == "all"
    assert fdc["scorer_pairs"] == everything["scorer_pairs"]


def frame(*pairs: Pair) -> pl.DataFrame:
    """Pairs as the selection sees them."""
    rows = [
        {
            **pair.model_dump(include={"id", "prompt_id", "dimension", "source", "category"}),
            "first": pair.chosen,
            "second": pair.rejected,
            "prefers_unsafe": pair.chosen_is_safe is False and pair.rejected_is_safe is True,
        }
        for pair in pairs
    ]
    return pl.DataFrame(rows, schema_overrides={"category": pl.String})


def test_where_better_is_not_safer_the_harmless_order_wins() -> None:
    harmless = make_pair("Q?", "no", "yes")
    helpful = make_pair("Q?", "yes", "no", dimension="helpful", safe=(False, True))
    counts = Counts()
    assert in_one_order(frame(helpful, harmless), counts)["id"].to_list() == [harmless.id]
    assert counts.dropped == {"opposite_order_of_harmless_pair": 1}


@pytest.mark.parametrize(
    ("safe", "stays"),
    [
        ((False, True), False),
        ((False, False), True),
        ((False, None), True),
        ((None, True), True),
        ((True, False), True),
    ],
)
def test_a_pair_that_prefers_the_unsafe_answer_trains_no_policy_even_without_a_harmless_twin(
    safe: tuple[bool | None, bool | None], stays: bool
) -> None:
    counts = Counts()
    pair = make_pair("Q?", "yes", "no", dimension="helpful", safe=safe)
    assert len(in_one_order(frame(pair), counts)) == stays
    assert counts.dropped == ({} if stays else {"unsafe_answer_preferred": 1})


def test_scorers_alone_see_pairs_that_prefer_the_unsafe_answer(tmp_path: Path) -> None:
    """So with the `pairs` adapter, or where import dropped the harmless twins as contradictory."""
    prompts, pairs = data()
    pairs = [
        make_pair(p.messages[0].content, "Gladly.", "No.", dimension="helpful", safe=(False, True))
        if i % 4 == 1
        else p
        for i, p in enumerate(pairs)
    ]
    parts, _ = assemble(tmp_path, prompts, pairs, quotas=Quotas(EHD=99, IHD=99, MHD=99))
    left = {n: sum(p.chosen_is_safe is False for p in part) for n, part in parts.items()}
    assert left["scorer_pairs"] > 0 and left["train_pairs"] == left["eval_pairs"] == 0
    assert dropped(tmp_path)["unsafe_answer_preferred"] == 20 - left["scorer_pairs"]


def test_the_same_answers_in_the_same_order_count_once() -> None:
    counts = Counts()
    pairs = [make_pair("Q?", "no", "yes"), make_pair("Q?", "no", "yes", dimension="helpful")]
    assert len(in_one_order(frame(*pairs), counts)) == 1
    assert counts.dropped == {"same_answers_again": 1}


def test_sources_take_turns_within_a_category() -> None:
    pairs = [make_pair(f"Q{i}?", "no", "yes", source="big" if i else "small") for i in range(9)]
    assert sorted(stratified(frame(*pairs), 2, seed=0)["source"]) == ["big", "small"]


def test_a_shortage_is_reported_and_fatal_only_when_strict(tmp_path: Path) -> None:
    quotas = Quotas(EHD=1000, IHD=1, MHD=1)
    _, metrics = assemble(tmp_path / "a", *data(), quotas=quotas)
    assert metrics["shortage_EHD"] > 900
    assert card_of(tmp_path / "a")["shortage"]["EHD"] == metrics["shortage_EHD"]
    with pytest.raises(StageError, match=r"missing \{'EHD': 989, .*there are \{'EHD': 11, 'NO"):
        assemble(tmp_path / "b", *data(), quotas=quotas, strict_quotas=True)
    assert not (tmp_path / "b/train_pairs").exists()


@pytest.mark.parametrize("label", ["judge", "gold", "gold_else_judge"])
def test_the_configured_label_decides(tmp_path: Path, label: str) -> None:
    prompts, pairs = data()
    prompts = [
        p.model_copy(update={"category": "NONE", "gold_category": p.category})
        if p.category == "EHD"
        else p
        for p in prompts
    ]
    parts, _ = assemble(tmp_path, prompts, pairs, label=label, general_count=99)
    categories = {p.category for p in parts["train_pairs"]}
    assert ("EHD" in categories) == (label != "judge")
    assert ("IHD" in categories) == (label != "gold")


@pytest.mark.parametrize(
    ("gold", "judged", "expected"),
    [
        (["EHD", None], ["NONE", "NONE"], "EHD"),  # would be a tie
        (["EHD", None, None], ["NONE", "NONE", "NONE"], "EHD"),  # would be outvoted
        (["EHD", "IHD", None], ["NONE", "NONE", "IHD"], None),  # the sources disagree
        (["EHD", "IHD", "EHD", None], ["NONE"] * 4, "EHD"),
        ([None, None, None], ["NONE", "NONE", "EHD"], "NONE"),
    ],
)
def test_a_gold_label_on_one_of_equal_texts_outvotes_the_judge(
    tmp_path: Path, gold: list[Category | None], judged: list[Category], expected: str | None
) -> None:
    texts = ("Is this it?", "is this it", "IS THIS IT!", "Is, this, it")
    rows = [
        labelled(text, category, gold_category=own)
        for text, own, category in zip(texts, gold, judged, strict=False)
    ]
    artifact = as_dataset(tmp_path / "prompts", rows)
    config = AssembleDatasetConfig(label="gold_else_judge")
    found = judge_prompts(artifact, config, pl.Series([], dtype=pl.String)).frame
    assert set(found["category"]) == {expected}
    by_judge = judge_prompts(artifact, AssembleDatasetConfig(), pl.Series([], dtype=pl.String))
    assert "EHD" not in set(by_judge.frame["category"])


@pytest.mark.parametrize("has_gold", [0, 1])
def test_of_near_duplicates_one_with_a_gold_label_stays(tmp_path: Path, has_gold: int) -> None:
    texts = (question(1), f"{question(1)} Now")
    rows = [
        labelled(text, "NONE", gold_category="EHD" if i == has_gold else None)
        for i, text in enumerate(texts)
    ]
    artifact = as_dataset(tmp_path / "prompts", rows)
    config = AssembleDatasetConfig(label="gold_else_judge")
    found = judge_prompts(artifact, config, pl.Series([], dtype=pl.String)).frame
    assert found.filter(pl.col("reason").is_null())["id"].to_list() == [rows[has_gold].id]


def test_unlabelled_prompts_fill_no_quota(tmp_path: Path) -> None:
    prompts, pairs = data()
    prompts = [
        p.model_copy(update={"category": None}) if i < 40 else p for i, p in enumerate(prompts)
    ]
    parts, _ = assemble(tmp_path, prompts, pairs)
    assert all(p.category for p in parts["train_pairs"])
    assert dropped(tmp_path)["unlabelled"] > 0
