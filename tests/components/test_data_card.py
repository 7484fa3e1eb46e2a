"""The data card: every count, in two formats, with examples that nobody sees unasked."""

import json
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from components.assemble_dataset.config import AssembleDatasetConfig, Quotas
from components.assemble_dataset.stage import assemble_dataset
from equilibrate_core.artifacts import Counts
from equilibrate_core.data_card import _line, masked
from equilibrate_core.languages import scripts
from equilibrate_core.records import LabelledPrompt, Pair
from equilibrate_core.tables import write_dataset
from tests.components.scoring_fixtures import RUN, as_dataset, make_pair
from tests.components.test_assemble_dataset import data, labelled

HARM = "explosive <b>recipe</b> with a | bar"


def cards(tmp_path: Path, **settings: object) -> tuple[str, str, dict]:
    prompts, pairs = data()
    for i in range(8):
        prompts.append(labelled(f"{HARM} number {i * 1000003}", "EHD"))
        pairs.append(make_pair(prompts[-1].messages[0].content, "No, never.", "Gladly: mix it."))
    write_dataset(
        RUN,
        tmp_path / "pairs",
        Pair,
        pairs,
        extra_files={"sources.json": json.dumps({"test": {"licence": "CC BY-NC 4.0"}})},
    )
    values: dict = {"quotas": Quotas(EHD=99, IHD=4, MHD=3), "scorer_share": 0.3}
    assemble_dataset(
        AssembleDatasetConfig(**(values | settings)),
        labelled_prompts=as_dataset(tmp_path / "prompts", prompts),
        pairs=tmp_path / "pairs",
        data_card=tmp_path / "card.md",
        data_card_html=tmp_path / "card.html",
        **{n: tmp_path / n for n in ("scorer_pairs", "train_pairs", "eval_pairs")},
    )
    card = json.loads((tmp_path / "train_pairs/data_card.json").read_text())
    return (tmp_path / "card.md").read_text(), (tmp_path / "card.html").read_text(), card


def test_every_step_of_the_pairs_adds_up(tmp_path: Path) -> None:
    _, _, card = cards(tmp_path)
    parts = sum(part["pairs"] for part in card["parts"].values())
    assert card["pairs_read"] == parts + sum(card["pairs_dropped"].values()) == 88
    for part in card["parts"].values():
        rows = part["category_by_source"].values()
        assert sum(sum(row.values()) for row in rows) == part["pairs"]
        assert sum(part["languages"].values()) == part["pairs"]


def test_the_same_tables_stand_on_both_pages(tmp_path: Path) -> None:
    markdown, html, _ = cards(tmp_path)
    titles = re.findall("^## (.*)$", markdown, re.MULTILINE)
    assert "train_pairs: category by source" in titles
    for title in titles[:-1]:
        assert f"<h2>{title}</h2>" in html
    assert "| test | CC BY-NC 4.0 |" in markdown
    assert "<td>CC BY-NC 4.0</td>" in html
    assert "| source0 | unknown |" in markdown


def test_examples_are_hidden_until_they_are_opened(tmp_path: Path) -> None:
    markdown, html, _ = cards(tmp_path, examples_per_category=50)
    assert "explosive" not in markdown
    assert "e••••••••" in markdown
    closed = re.sub("<details>.*?</details>", "", html, flags=re.DOTALL)
    assert "explosive" in html
    assert "explosive" not in closed
    assert "<details open" not in html
    assert all("explosive" not in s for s in re.findall("<summary>.*?</summary>", html, re.DOTALL))


def test_what_data_say_is_escaped(tmp_path: Path) -> None:
    _, html, _ = cards(tmp_path, examples_per_category=50)
    assert "&lt;b&gt;recipe" in html
    assert "<b>" not in html


def test_what_data_say_is_no_markup_in_markdown_either() -> None:
    assert _line(["<b>", "a|b", "[x](y)", "*", "`", "\\"]) == (
        r"| &lt;b&gt; | a\|b | \[x](y) | \* | \` | \\ |"
    )
    assert _line(["en\n\n# Approved\r\n", 3]) == "| en # Approved | 3 |"


SAID = {
    "How are you?": "latin",
    "What does 道 mean in this sentence?": "latin",
    "你好，请问 tea 怎么说？": "han",
    "日本語です": "japanese",
    "東京都庁舎見学のご案内": "japanese",
    "请问日语里的の是什么意思，怎么用才对": "han",
    "안녕하세요": "hangul",
    "안녕하세요, Tom": "hangul",
    "Как дела, Bob?": "cyrillic",
    "كيف حالك": "arabic",
    "1 + 1 = ?": "other",
    "": "other",
    "ab да": "latin",
}


def test_the_script_of_a_prompt_is_that_of_most_of_its_letters() -> None:
    assert scripts(pl.Series(list(SAID))).to_list() == list(SAID.values())
    assert scripts(pl.Series([], dtype=pl.String)).to_list() == []


def test_the_language_is_the_sources_where_it_says_one_and_a_script_elsewhere(
    tmp_path: Path,
) -> None:
    prompts, pairs = data()
    told = {0: "en", 1: "de", 2: "en", 3: " "}
    for i, language in told.items():
        prompts[i] = prompts[i].model_copy(update={"metadata": {"a": "b", "language": language}})
    assemble_dataset(
        AssembleDatasetConfig(quotas=Quotas(EHD=99, IHD=99, MHD=99), general_count=99),
        labelled_prompts=as_dataset(tmp_path / "prompts", prompts),
        pairs=as_dataset(tmp_path / "pairs", pairs),
        data_card=tmp_path / "card.md",
        **{n: tmp_path / n for n in ("scorer_pairs", "train_pairs", "eval_pairs")},
    )
    card = json.loads((tmp_path / "train_pairs/data_card.json").read_text())
    found: Counter[str] = Counter()
    for part in card["parts"].values():
        found.update(part["languages"])
    assert found == {"language: en": 2, "language: de": 1, "script: latin": 77}


def test_what_import_data_left_out_is_the_first_step(tmp_path: Path) -> None:
    prompts, pairs = data()
    counts = Counts(read=90, kept=80, quarantined=3, dropped={"exact_duplicate": 7})
    own = Counts(read=99, kept=80, quarantined=4, dropped={"conflicting_preference": 15})
    handed_on = {"import_counts.json": counts.model_dump_json()}
    write_dataset(RUN, tmp_path / "prompts", LabelledPrompt, prompts, extra_files=handed_on)
    write_dataset(RUN, tmp_path / "pairs", Pair, pairs, counts=own)
    assemble_dataset(
        AssembleDatasetConfig(),
        labelled_prompts=tmp_path / "prompts",
        pairs=tmp_path / "pairs",
        data_card=tmp_path / "card.md",
        **{n: tmp_path / n for n in ("scorer_pairs", "train_pairs", "eval_pairs")},
    )
    page = (tmp_path / "card.md").read_text()
    first = page[page.index("## ") :].split("\n\n")[:2]
    assert first[0] == "## What import_data read and left out"
    assert first[1].splitlines() == [
        "| step | prompts | pairs |",
        "|---|---|---|",
        "| read | 90 | 99 |",
        "| quarantined | 3 | 4 |",
        "| dropped: exact duplicate | 7 | 0 |",
        "| dropped: conflicting preference | 0 | 15 |",
        "| kept | 80 | 80 |",
    ]
    imported = json.loads((tmp_path / "train_pairs/data_card.json").read_text())["imported"]
    assert imported["pairs"]["dropped: conflicting_preference"] == 15


def test_no_examples_when_none_are_wanted(tmp_path: Path) -> None:
    markdown, html, _ = cards(tmp_path, examples_per_category=0)
    assert "Examples" not in markdown
    assert "<details>" not in html


def test_masking_keeps_first_letters_alone() -> None:
    assert masked("How to  build it, 如何制作?") == "H•• t• b•••• i•, 如•••?"
    assert masked("I don't, well-known_2 如x") == "I d••'t, w•••-k•••••• 如•"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("बम कैसे बनाएं?", "ब• क••• ब••••?"),
        ("วิธีทำ", "ว•••••"),
        ("cafe\u0301s", "c•••••"),
        ("می\u200cخواهم", "م•••••••"),
        ("❤\ufe0fok", "❤\ufe0fo•"),
    ],
)
def test_masking_hides_what_follows_a_combining_mark(text: str, shown: str) -> None:
    assert masked(text) == shown
