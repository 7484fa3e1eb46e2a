"""The table of planted mistakes fits the code, so that the script can plant every one of them."""

from pathlib import Path

import pytest

from benchmarks.planted_mistakes import Mistake, misfits, read_table


def test_every_mistake_can_be_planted_and_every_test_it_names_is_there() -> None:
    assert misfits(read_table()) == []


def test_every_pitfall_has_a_mistake() -> None:
    numbers = [mistake.pitfall for mistake in read_table()]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(17))


def test_planting_changes_the_file_and_leaves_valid_python() -> None:
    root = Path(__file__).parents[1]
    for mistake in read_table():
        sound = (root / mistake.file).read_text(encoding="utf-8")
        planted = sound.replace(mistake.old, mistake.new)
        assert planted != sound
        compile(planted, mistake.file, "exec")


@pytest.mark.parametrize(
    ("old", "test", "message"),
    [
        ("once = 2", "tests/t.py::test_it", "its old text occurs 0 times in code.py"),
        ("1", "tests/t.py::test_it", "its old text occurs 2 times in code.py"),
        ("once = 1", "tests/t.py::test_gone[x]", "tests/t.py has no test_gone"),
    ],
)
def test_a_stale_entry_is_named(tmp_path: Path, old: str, test: str, message: str) -> None:
    (tmp_path / "code.py").write_text("once = 1\ntwice = 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/t.py").write_text("def test_it() -> None: ...\n")
    assert (
        misfits([Mistake(3, "x", "code.py", "once = 1", "", ("tests/t.py::test_it",))], tmp_path)
        == []
    )
    found = misfits([Mistake(3, "x", "code.py", old, "", (test,))], tmp_path)
    assert found == [f"3 x: {message}"]
