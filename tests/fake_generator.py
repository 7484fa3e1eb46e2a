"""A generator that says what a test tells it to: the judge and the stages need no model then."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from equilibrate_core.completions import Completion, failed
from equilibrate_core.generator_config import Sampling

Answer = Callable[[str, Sampling], str | Completion | Exception]
"""From the last message and the sampling to a text, a completion, or an error for the row."""


class FakeGenerator:
    """Answers by a function; `max_chars` is what fits, `asked` what it was given."""

    name = "fake"

    def __init__(self, answer: Answer, *, max_chars: int = 10**9) -> None:
        self.answer, self.max_chars = answer, max_chars
        self.asked: list[str] = []
        self.options: list[dict[str, Any]] = []

    def fits(self, conversation: Sequence[Any], max_tokens: int) -> bool:
        return sum(len(message.content) for message in conversation) <= self.max_chars

    def generate(
        self,
        conversations: Sequence[Any],
        sampling: Sampling,
        *,
        on_done: Any = None,
        on_answer: Any = None,
        **options: Any,
    ) -> list[Completion]:
        self.options.append(options)
        completions = []
        for row, conversation in enumerate(conversations):
            self.asked.append(conversation[-1].content)
            given = self.answer(conversation[-1].content, sampling)
            if isinstance(given, str):
                given = Completion(given, "stop", len(given))
            completions.append(failed(str(given)) if isinstance(given, Exception) else given)
            if on_answer:
                on_answer(row, completions[-1])
            if on_done:
                on_done(1)
        return completions


def opener(generator: FakeGenerator) -> Callable[..., Any]:
    """A stand-in for `open_generator` that yields `generator`."""

    @contextmanager
    def open_fake(config: Any, model_path: Any) -> Iterator[FakeGenerator]:
        yield generator

    return open_fake
