"""What a server is asked for an answer, in words it knows, and what its answer is worth.

A conversation, sampling and constraint -> a request's body; a completion -> the text wanted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from equilibrate_core.completions import Completion, Conversation, JsonSchema, request_seed
from equilibrate_core.endpoint_choices import (
    bare_choice,
    choice_tokens,
    choices_schema,
    unfenced,
    unwrap_choice,
    without_lengths,
)
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.judged_text import break_markup
from equilibrate_core.label_tokens import (
    TOP_LOGPROBS,
    bounds_in_json,
    bounds_of_bare,
    logps_in_json,
    logps_of_bare,
)


@dataclass(frozen=True)
class Wanted:
    """What all answers of a call have to be: of a schema, one of some choices, or any text."""

    config: GeneratorConfig
    max_tokens: int
    schema: JsonSchema | None = None
    choices: Sequence[str] | None = None

    @classmethod
    def of(
        cls,
        config: GeneratorConfig,
        max_tokens: int,
        schema: JsonSchema | None,
        choices: Sequence[str] | None,
    ) -> "Wanted":
        """Choices get the tokens they need, should `max_tokens` be fewer."""
        if schema is not None and choices is not None:
            raise ValueError("give a schema or choices, not both")
        if choices is not None:
            max_tokens = max(max_tokens, choice_tokens(choices))
        return cls(config, max_tokens, schema, choices)

    @property
    def json(self) -> JsonSchema | None:
        """Schema of the JSON that the server writes; a strict one wraps choices into an object."""
        if self.choices is not None and self.config.endpoint_structured == "json_schema":
            return choices_schema(self.choices)
        return self.schema

    def body(self, conversation: Conversation, sampling: Sampling) -> dict[str, Any]:
        """The request for one answer."""
        messages = [{"role": m.role, "content": break_markup(m.content)} for m in conversation]
        body: dict[str, Any] = {
            "model": self.config.endpoint_model,
            "messages": messages,
            self.config.endpoint_token_field: self.max_tokens,
        }
        if self.config.endpoint_send_sampling:
            body |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": request_seed(sampling.seed, messages),
            }
        if self._has_labels and self.config.endpoint_logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body | self._constraint()

    def read(self, completion: Completion) -> Completion:
        """The completion with the bare choice as its text, or a failed one that says why not."""
        if self.config.endpoint_structured in ("json_object", "none"):
            completion = replace(completion, text=unfenced(completion.text))
        if self.choices is None:
            return completion
        unwrap = bare_choice if self.json is None else unwrap_choice
        return unwrap(completion, self.choices, self.max_tokens)

    def with_label_logps(
        self, completion: Completion, tokens: Sequence[Mapping[str, Any]]
    ) -> Completion:
        """The completion with what the server's tokens tell of the labels, if they were asked."""
        if not (self._has_labels and self.config.endpoint_logprobs):
            return completion
        if self.json is not None:
            logps, bounds = logps_in_json(tokens, self.json), bounds_in_json(tokens, self.json)
        else:
            labels = self.choices or ()
            logps, bounds = logps_of_bare(tokens, labels), bounds_of_bare(tokens, labels)
        return replace(completion, label_logps=logps, label_bounds=bounds)

    @property
    def _has_labels(self) -> bool:
        return self.schema is not None or self.choices is not None

    def _constraint(self) -> dict[str, Any]:
        how = self.config.endpoint_structured
        if how == "vllm" and self.choices is not None:
            return _vllm(choice=list(self.choices))
        if self.json is None:  # also choices as bare words: an object would be none of them
            return {}
        if how == "vllm":
            return _vllm(json=self.json)
        if how == "json_schema":
            strict = {"name": "answer", "schema": without_lengths(self.json), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": strict}}
        return {"response_format": {"type": "json_object"}} if how == "json_object" else {}


def _vllm(**constraint: Any) -> dict[str, Any]:
    # Fields beyond OpenAI's travel in the client's `extra_body`, and arrive among the others.
    return {"extra_body": {"structured_outputs": constraint}}
