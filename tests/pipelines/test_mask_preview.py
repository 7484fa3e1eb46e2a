"""`equilibrate preview-masks`: any scored pair, with the tokens that its masks keep."""

import re
import sys
from pathlib import Path

import pytest

from equilibrate_core.artifacts import StageRun
from equilibrate_core.models import load_tokenizer
from equilibrate_core.records import Message, ScoredPair
from equilibrate_core.tables import write_dataset
from pipelines.cli import main

CHOSEN_COSTS, REJECTED_COSTS = (-1.0, 1.0, -1.0), (2.0, -1.0)
"""On a harmless pair the score is minus the cost and the baseline 0: the chosen side keeps tokens 0
and 2, the rejected side token 0."""


@pytest.fixture
def scored_pairs(tiny_model: Path, tmp_path: Path) -> Path:
    tokenizer = load_tokenizer(tiny_model)

    def pair(number: int) -> ScoredPair:
        chosen = tokenizer("abc", add_special_tokens=False)["input_ids"][:3]
        rejected = tokenizer("xy", add_special_tokens=False)["input_ids"][:2]
        assert (len(chosen), len(rejected)) == (3, 2)
        return ScoredPair(
            id=f"pair-{number}",
            prompt_id=str(number),
            messages=(Message(role="user", content="hello"),),
            chosen="abc",
            rejected="xy",
            dimension="harmless",
            source="test",
            prompt_token_ids=tokenizer("hello")["input_ids"],
            chosen_token_ids=chosen,
            rejected_token_ids=rejected,
            chosen_segment_ids=[0, 1, 2],
            rejected_segment_ids=[0, 1],
            chosen_rewards=[0.0] * 3,
            rejected_rewards=[0.0] * 2,
            chosen_costs=list(CHOSEN_COSTS),
            rejected_costs=list(REJECTED_COSTS),
            chosen_reference_logps=[-1.0] * 3,
            rejected_reference_logps=[-1.0] * 2,
            chosen_initial_reward=0.0,
            rejected_initial_reward=0.0,
            chosen_initial_cost=0.0,
            rejected_initial_cost=0.0,
        )

    run = StageRun(stage="score_tokens", config={}, seed=0, code_version="", inputs={})
    write_dataset(run, tmp_path / "scored", ScoredPair, [pair(0), pair(1)])
    return tmp_path / "scored"


def preview(
    monkeypatch: pytest.MonkeyPatch, scored_pairs: Path, model: Path, *arguments: str
) -> int:
    paths = ["--scored-pairs", str(scored_pairs), "--model", str(model)]
    monkeypatch.setattr(sys, "argv", ["equilibrate", "preview-masks", *paths, *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_named_pair_is_shown_with_the_tokens_its_masks_keep(
    scored_pairs: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "masks.html"
    options = ("--pair", "pair-1", "--output", str(output))
    assert preview(monkeypatch, scored_pairs, tiny_model, *options) == 0
    page = output.read_text(encoding="utf-8")
    assert "pair-1" in page and "pair-0" not in page
    kept = re.findall(r'class="tok (?:up|down)( kept)?"', page)
    assert [bool(k) for k in kept] == [True, False, True, True, False]
    assert "2 of 3 chosen tokens kept, 1 of 2 rejected tokens kept" in page


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--pair", "nowhere"), "no pair whose id begins with 'nowhere' among 2"),
        (("--config", "batch_mean.yaml"), "batch_mean depends on the batch"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_line(
    options: tuple[str, str],
    expected: str,
    scored_pairs: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    laptop = Path(__file__).parents[2] / "pipelines/configs/laptop.yaml"
    text = laptop.read_text(encoding="utf-8")
    ama = "train_policy:\n  ama: {baseline: batch_mean}\n"
    Path("batch_mean.yaml").write_text(text.replace("train_policy:\n", ama), encoding="utf-8")
    assert preview(monkeypatch, scored_pairs, tiny_model, *options) == 2
    assert expected in capsys.readouterr().err
