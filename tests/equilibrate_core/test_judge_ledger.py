import errno
import fcntl
import json
import logging
import shutil
from pathlib import Path

import pytest

from equilibrate_core.completions import Completion
from equilibrate_core.errors import StageError
from equilibrate_core.generator_config import GeneratorConfig
from equilibrate_core.judge import ask
from equilibrate_core.judge_config import JudgeConfig
from equilibrate_core.judge_ledger import ANSWERS, Ledger, answer_key
from equilibrate_core.judge_question import Question
from tests.fake_generator import FakeGenerator

QUESTION = Question("colour_v1", "colour", ("Red", "Blue"), "Name it. {{format}}\n{{judged}}\nNow.")
CONFIG = JudgeConfig(rationale=False, max_unscored_share=1.0, shard_size=2)
ANSWER = Completion("Red", "stop", 1, label_logps={"Red": -0.1})


def ask_with(
    ledger: Ledger | None, generator: FakeGenerator, *texts: str, judge: str = "j", **options
):
    if judge_at := options.pop("judge_at", None):
        options["judge"] = GeneratorConfig.model_validate(judge_at)
    config = CONFIG.model_copy(update=options)
    parts = [{"ANSWER": text} for text in texts]
    return ask(generator, QUESTION, parts, config, label="t", judge=judge, ledger=ledger)


def any_answer(completion: Completion) -> bool:
    return True


def red() -> FakeGenerator:
    return FakeGenerator(lambda text, _: "Red")


def test_answers_come_back_as_they_were_kept(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.record(["a", "b"], any_answer)(0, ANSWER)
    with Ledger(tmp_path) as again:
        assert again.known == {"a": ANSWER}


def test_a_line_that_was_cut_by_the_death_of_its_writer_is_dropped(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.record(["a"], any_answer)(0, ANSWER)
    with (tmp_path / ANSWERS).open("a") as file:
        file.write('["b", {"text": "Bl')
    with Ledger(tmp_path) as again:
        assert set(again.known) == {"a"}
        again.record(["c"], any_answer)(0, ANSWER)
    assert [json.loads(x)[0] for x in (tmp_path / ANSWERS).read_text().splitlines()] == ["a", "c"]


def test_failed_answers_are_asked_again(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ask_with(ledger, FakeGenerator(lambda text, _: RuntimeError("answered 500")), "a")
        assert ledger.known == {}


def test_what_the_ledger_knows_is_not_asked_again(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        first = red()
        expected = ask_with(ledger, first, "one", "two", "three")
    with Ledger(tmp_path) as ledger:
        second = red()
        assert ask_with(ledger, second, "three", "four", "one") == expected
    assert (len(first.asked), len(second.asked)) == (3, 1)
    assert "four" in second.asked[0]


def test_another_judge_sampling_or_prompt_is_asked_anew(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ask_with(ledger, red(), "one")
        for change in ({"judge": "k"}, {"rationale": True}, {"max_tokens": 9}, {"seed": 1}):
            other = red()
            ask_with(ledger, other, "one", **change)
            assert len(other.asked) == 1, change
        more = red()
        ask_with(ledger, more, "one", votes=2)
        assert len(more.asked) == 1


def test_another_backend_or_precision_is_asked_anew(tmp_path: Path) -> None:
    """`auto` may come to another one where a killed stage goes on: their verdicts do not mix."""
    settled = {"backend": "vllm", "dtype": "bfloat16"}
    changes = ({}, {"backend": "transformers"}, {"dtype": "float32"}, {"batch_size": 1})
    with Ledger(tmp_path) as ledger:
        numbers = []
        for change in changes:
            generator = red()
            ask_with(ledger, generator, "one", judge_at=settled | change)
            numbers.append(len(generator.asked))
    assert numbers == [1, 1, 1, 0]


def test_keys_tell_all_parts_apart() -> None:
    keys = {
        answer_key("j", "t", {"a": 1}),
        answer_key("j", "t", {"a": 2}),
        answer_key("jt", "", {}),
    }
    assert len(keys) == 3


def test_a_text_that_occurs_twice_is_asked_once() -> None:
    generator = red()
    judgements = ask_with(None, generator, "one", "one", shard_size=8)
    assert [j.label for j in judgements] == ["Red", "Red"]
    assert len(generator.asked) == 1


def test_rows_are_put_to_the_judge_shard_by_shard() -> None:
    generator = red()
    ask_with(None, generator, *"abcde")
    assert len(generator.options) == 3


def test_a_finished_ledger_leaves_no_folder(tmp_path: Path) -> None:
    with Ledger.beside(tmp_path / "labelled", None, {}) as ledger:
        assert ledger.folder == tmp_path / ".labelled.progress"
        ledger.discard()
    assert not ledger.folder.exists()


def test_the_answers_are_closed_before_they_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS renames an open file when it is removed, and its folder then is not empty."""
    with Ledger(tmp_path / "ledger") as ledger:
        held = ledger._file
        assert held is not None
        rmtree = shutil.rmtree

        def as_on_nfs(path: Path) -> None:
            if not held.closed:
                raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
            rmtree(path)

        monkeypatch.setattr(shutil, "rmtree", as_on_nfs)
        ledger.discard()
    assert not ledger.folder.exists()


def test_a_ledger_that_cannot_be_removed_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    with Ledger(tmp_path / "ledger") as ledger:
        monkeypatch.setattr(shutil, "rmtree", busy)
        with caplog.at_level(logging.WARNING):
            ledger.discard()
    assert str(ledger.folder) in caplog.text
    assert "busy" in caplog.text


def test_what_a_judge_answered_before_it_was_given_up_is_not_asked_again(tmp_path: Path) -> None:
    def dies(text: str, _: object) -> str | Exception:
        return "Red" if len(dying.asked) <= 2 else RuntimeError("cannot connect")

    dying, healthy = FakeGenerator(dies), red()
    with Ledger(tmp_path) as ledger, pytest.raises(StageError, match=r"by j,.*cannot connect"):
        ask_with(ledger, dying, *"abcdefgh", max_unscored_share=0.1)
    with Ledger(tmp_path) as ledger:
        ask_with(ledger, healthy, *"abcdefgh", max_unscored_share=0.1)
    assert (len(dying.asked), len(healthy.asked)) == (3, 6)


@pytest.mark.parametrize("rationale", [False, True])
def test_a_mended_judge_is_asked_again_what_it_gave_no_verdict_on(
    tmp_path: Path, rationale: bool
) -> None:
    def answers(label: str) -> str:
        return json.dumps({"rationale": "r", "colour": label}) if rationale else label

    def half_broken(text: str, _: object) -> str:
        return answers("Red" if "good" in text else "Purple")

    broken = FakeGenerator(half_broken)
    mended = FakeGenerator(lambda text, _: answers("Blue"))
    texts = ["good 1", "bad 1", "good 2", "bad 2"]
    with Ledger(tmp_path) as ledger, pytest.raises(StageError, match="Purple"):
        ask_with(ledger, broken, *texts, rationale=rationale, max_unscored_share=0.3)
    assert len(broken.asked) == 4
    with Ledger(tmp_path) as ledger:
        judgements = ask_with(ledger, mended, *texts, rationale=rationale, max_unscored_share=0)
    assert [j.label for j in judgements] == ["Red", "Blue", "Red", "Blue"]
    assert len(mended.asked) == 2
    with Ledger(tmp_path) as ledger:
        ask_with(ledger, mended, *texts, rationale=rationale, max_unscored_share=0)
    assert len(mended.asked) == 2


def test_an_answer_of_an_earlier_version_that_is_no_verdict_is_replaced(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ask_with(ledger, red(), "one")
    path = tmp_path / ANSWERS
    path.write_text(path.read_text().replace("Red", "Purple"))
    for number in (1, 0):
        with Ledger(tmp_path) as ledger:
            generator = red()
            assert [j.label for j in ask_with(ledger, generator, "one")] == ["Red"]
            assert len(generator.asked) == number


def test_stages_on_one_volume_keep_out_of_each_others_answers(tmp_path: Path) -> None:
    """Judges of base and aligned answers run at once and write an output of the same name."""

    def folder(**inputs: str) -> Path:
        return Ledger.beside(tmp_path / "verdicts", str(tmp_path / "volume"), inputs).folder

    assert folder(generations="a").parent == tmp_path / "volume"
    assert folder(generations="a", prompts="p") == folder(prompts="p", generations="a")
    assert folder(generations="a") != folder(generations="b")


def test_answers_without_log_probs_do_not_stand_for_answers_with_them(tmp_path: Path) -> None:
    endpoint = {"backend": "endpoint", "endpoint_url": "http://one/v1", "endpoint_model": "m"}
    with Ledger(tmp_path) as ledger:
        for logprobs in (False, True):
            generator = red()
            ask_with(ledger, generator, "one", judge_at={**endpoint, "endpoint_logprobs": logprobs})
            assert len(generator.asked) == 1


def test_a_line_the_disk_spoilt_is_asked_again(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.record(["a", "b"], any_answer)(0, ANSWER)
    path = tmp_path / ANSWERS
    path.write_bytes(b"\x00\x00\xff\n{}\n3\n[1, 2]\n" + path.read_bytes())
    with Ledger(tmp_path) as again:
        assert again.known == {"a": ANSWER}


def test_servers_that_call_their_models_alike_are_both_asked(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for url in ("http://one/v1", "http://two/v1"):
            judge = {"backend": "endpoint", "endpoint_url": url, "endpoint_model": "m"}
            generator = red()
            ask_with(ledger, generator, "one", judge_at=judge)
            assert len(generator.asked) == 1


def test_a_run_that_ends_leaves_the_folder_to_another_that_uses_it(tmp_path: Path) -> None:
    """Two runs over the same inputs share a folder, and each other's answers, of one volume."""
    with Ledger(tmp_path / "ledger") as first, Ledger(tmp_path / "ledger") as second:
        ask_with(first, red(), "one")
        first.discard()
        ask_with(second, red(), "two")
        with Ledger(tmp_path / "ledger") as restarted:
            assert len(restarted.known) == 2
        first.discard()
        assert second.folder.exists()
    second.discard()
    assert not second.folder.exists()


def test_a_volume_without_locks_keeps_answers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Ledger(tmp_path / "ledger") as ledger:
        ask_with(ledger, red(), "one")
        ledger.discard()
    assert not ledger.folder.exists()
