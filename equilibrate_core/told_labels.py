"""How sure a model in this process is of a JSON verdict, read by the code that reads a server's.

Generated ids and each step's likeliest tokens -> the completion with its label log-probs.

Log-probs are the model's own over the tokens that the grammar lets through, before temperature
and top_p. vllm tells those in its own mode raw_logprobs, in process and as a server, since it masks
before it samples. So the label is among those listed, whatever the model would rather have written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from equilibrate_core.chat import Tokenizer
from equilibrate_core.completions import Completion, JsonSchema
from equilibrate_core.label_tokens import (
    bounds_in_json,
    closed_set,
    logps_in_json,
    verdict_place,
)

Listed = Callable[[int], Mapping[int, float]]
"""Log-probs of a step's likeliest tokens and of the one taken, by token id."""


class LabelReader:
    """Reads the label's log-probs off answers of one JSON schema."""

    def __init__(self, tokenizer: Tokenizer, schema: JsonSchema) -> None:
        self.tokenizer, self.schema = tokenizer, schema
        self._texts: dict[int, str] = {}
        # Tokenizers of words leave the space out of a text's first token.
        self._before: list[int] = list(tokenizer('"', add_special_tokens=False)["input_ids"])
        self._num_before = len(self._decode(self._before))

    @classmethod
    def of(cls, tokenizer: Tokenizer, schema: JsonSchema | None) -> "LabelReader | None":
        """The reader of a schema, None if it has no labels."""
        if schema is None or closed_set(schema) is None:
            return None
        return cls(tokenizer, schema)

    def read(self, completion: Completion, ids: Sequence[int], listed: Listed) -> Completion:
        """The completion of `ids` with its label log-probs, as it was if it holds no label."""
        ids = ids[: completion.num_tokens]
        tokens: list[dict[str, Any]] = [{"token": self._text(token)} for token in ids]
        place = verdict_place([token["token"] for token in tokens], self.schema)
        if place is None:
            return completion
        index, _ = place
        told = [  # what the grammar forbids is no alternative
            {"token": self._text(token), "logprob": logp}
            for token, logp in listed(index).items()
            if logp > -inf
        ]
        tokens[index] |= {"logprob": listed(index)[ids[index]], "top_logprobs": told}
        return replace(
            completion,
            label_logps=logps_in_json(tokens, self.schema),
            label_bounds=bounds_in_json(tokens, self.schema),
        )

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._decode([*self._before, token])[self._num_before :]
        return self._texts[token]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
