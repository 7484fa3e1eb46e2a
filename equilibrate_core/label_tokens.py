"""Verdicts in one token: each label's probability read off the first token it could begin with.

A model's distribution over the next token -> a log-probability per label -> a label.
"""

import json
import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from equilibrate_core.chat import Tokenizer
from equilibrate_core.completions import Completion, JsonSchema
from equilibrate_core.generator_config import Sampling

LabelLogps = dict[str, float]
"""Natural-log probability of each label's beginning; not normalised over the labels."""
TOP_LOGPROBS = 20
"""Alternatives to a token that are asked for: the most that OpenAI and vllm give by default."""
SMALLEST_PROB = 1e-6
"""Servers round: what they leave of the probability may come out as zero or less."""


def first_tokens(tokenizer: Tokenizer, choices: Sequence[str]) -> dict[int, str] | None:
    """The choice that each token begins which can begin only one; None if one has no such token.

    `EHD` may begin with the tokens `E`, `EH` or `EHD`; all three stand for it.
    """
    by_token: dict[int, set[str]] = {}
    for choice in choices:
        for length in range(1, len(choice) + 1):
            ids = list(tokenizer(choice[:length], add_special_tokens=False)["input_ids"])
            if len(ids) == 1 and tokenizer.decode(ids) == choice[:length]:
                by_token.setdefault(ids[0], set()).add(choice)
    found = {token: min(begun) for token, begun in by_token.items() if len(begun) == 1}
    return found if set(found.values()) == set(choices) else None


def label_logps(tokens: Mapping[int, str], token_logps: Mapping[int, float]) -> LabelLogps:
    """Log-probability of each label from its tokens' (log of their summed probabilities)."""
    return sum_by_label((label, token_logps[token]) for token, label in tokens.items())


def sum_by_label(pairs: Any) -> LabelLogps:
    """Log of the summed probabilities of (label, log-probability) pairs, by label."""
    grouped: dict[str, list[float]] = {}
    for label, logp in pairs:
        grouped.setdefault(label, []).append(logp)
    return {label: log_sum_exp(logps) for label, logps in grouped.items()}


def log_sum_exp(logps: Sequence[float]) -> float:
    """Logarithm of Σ exp(logps), without overflow."""
    highest = max(logps)
    if highest == -math.inf:
        return highest
    return highest + math.log(sum(math.exp(logp - highest) for logp in logps))


def label_completion(logps: LabelLogps, sampling: Sampling, seed: int) -> Completion:
    """The likeliest label, or one drawn at `sampling.temperature` with the row's own seed."""
    scores = logps
    if sampling.temperature > 0:
        draw = Random(seed)
        scores = {  # Gumbel noise: the largest is a draw from the softmax
            label: logp / sampling.temperature - math.log(-math.log(max(draw.random(), 1e-12)))
            for label, logp in sorted(logps.items())
        }
    label = max(scores, key=lambda name: scores[name])
    return Completion(label, "stop", 1, label_logps=logps)


def closed_set(schema: JsonSchema) -> tuple[str, tuple[str, ...]] | None:
    """Name and values of the schema's last field that is an enumeration, or None."""
    fields = schema.get("properties", {}).items()
    enums = [(name, tuple(field["enum"])) for name, field in fields if "enum" in field]
    return enums[-1] if enums else None


def logps_in_json(tokens: Sequence[Mapping[str, Any]], schema: JsonSchema) -> LabelLogps | None:
    """Label log-probabilities where a JSON answer's enumeration begins.

    `tokens` are the answer's as OpenAI-compatible servers list them: token, logprob, top_logprobs.
    Labels outside the listed alternatives are left out; None when the place cannot be found.
    """
    return _told(_verdict_token(tokens, schema))


def logps_of_bare(tokens: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> LabelLogps | None:
    """The same of an answer that is a label and nothing else."""
    return _told(_bare_token(tokens, labels))


def bounds_in_json(tokens: Sequence[Mapping[str, Any]], schema: JsonSchema) -> LabelLogps | None:
    """Upper bounds of the log-probabilities of the labels that `logps_in_json` leaves out.

    The alternatives p_1 … p_k are the likeliest: no token outside is likelier than the least of
    them, and all tokens outside share what they leave. So a label that could begin with n tokens
    (each of its beginnings, and itself with the closing quote) has
    p ≤ a + min(n · min_i p_i, 1 - Σ_i p_i), never taken for less than SMALLEST_PROB; a is the
    probability of the alternatives that could begin another label as well.
    """
    return _bounds(_verdict_token(tokens, schema))


def bounds_of_bare(tokens: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> LabelLogps | None:
    """The same of an answer that is a label and nothing else."""
    return _bounds(_bare_token(tokens, labels))


def verdict_place(texts: Sequence[str], schema: JsonSchema) -> tuple[int, int] | None:
    """Index of the token in which a JSON answer's label begins, and its characters before that.

    `texts` are those of the answer's tokens. None when there is no such place.
    """
    closed = closed_set(schema)
    if closed is None:
        return None
    text = "".join(texts)
    key = text.rfind(json.dumps(closed[0]))
    quote = text.find('"', text.find(":", key) + 1) if key >= 0 else -1
    if quote < 0:
        return None
    start = 0
    for index, token in enumerate(texts):
        if start + len(token) > quote + 1:
            return index, quote + 1 - start
        start += len(token)
    return None


Verdict = tuple[Mapping[str, Any], str, Sequence[str]]
"""The token with which the verdict begins, its text before the label, and the labels."""


def _told(verdict: Verdict | None) -> LabelLogps | None:
    if verdict is None:
        return None
    return sum_by_label(_alternatives(*verdict)) or None


def _bounds(verdict: Verdict | None) -> LabelLogps | None:
    if verdict is None:
        return None
    token, before, labels = verdict
    told = {label for label, _ in _alternatives(token, before, labels)}
    probs = {other["token"]: math.exp(other["logprob"]) for other in _listed(token)}
    rest = 1.0 - sum(probs.values())
    # vllm lists the token that it took even when it is not among the likeliest.
    least = min([p for text, p in probs.items() if text != token["token"]] or probs.values())
    bounds: LabelLogps = {}
    for label in labels:
        if label not in told:
            shared = sum(p for text, p in probs.items() if label in _begun(text, before, labels))
            outside = min((len(label) + 1) * least, rest)
            bounds[label] = math.log(max(shared + outside, SMALLEST_PROB))
    return bounds


def _bare_token(tokens: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Verdict | None:
    for token in tokens:
        if label := token["token"].lstrip():
            return token, token["token"].removesuffix(label), labels
    return None


def _verdict_token(tokens: Sequence[Mapping[str, Any]], schema: JsonSchema) -> Verdict | None:
    closed = closed_set(schema)
    place = verdict_place([token["token"] for token in tokens], schema)
    if closed is None or place is None:
        return None
    index, num_before = place
    token = tokens[index]
    return token, token["token"][:num_before], closed[1]


def _alternatives(
    token: Mapping[str, Any], before: str, labels: Sequence[str]
) -> list[tuple[str, float]]:
    """(label, log-probability) of the alternatives to `token` that begin exactly one label."""
    found: list[tuple[str, float]] = []
    for other in _listed(token):
        begun = _begun(other["token"], before, labels)
        if len(begun) == 1:
            found.append((begun[0], float(other["logprob"])))
    return found


def _begun(text: str, before: str, labels: Sequence[str]) -> list[str]:
    """The labels that a token could begin."""
    rest = text.removeprefix(before)
    if not rest or not text.startswith(before):
        return []
    return [label for label in labels if label.startswith(rest) or rest.startswith(label + '"')]


def _listed(token: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives that the server lists for a token, the one it took among them."""
    top: list[Mapping[str, Any]] = list(token.get("top_logprobs") or ())
    return top if any(other["token"] == token["token"] for other in top) else [*top, token]
