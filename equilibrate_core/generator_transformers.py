"""Generation with plain transformers: runs anywhere torch does, slower than vllm.

Batches are left-padded and sorted by length. What all prompts of a call have in common (a judge's
instructions) is computed once. Every row draws from a random stream of its own.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import xgrammar
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from xgrammar.contrib.hf import LogitsProcessor as GrammarProcessor

from equilibrate_core.chat import encode_prompt
from equilibrate_core.completions import (
    Completion,
    Conversation,
    JsonSchema,
    OnAnswer,
    OnDone,
    Request,
    completion_of,
    encode_requests,
    in_order,
    stop_ids,
)
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.generator_dtype import resolve_dtype
from equilibrate_core.label_tokens import (
    TOP_LOGPROBS,
    first_tokens,
    label_completion,
    label_logps,
)
from equilibrate_core.models import load_causal_lm, load_tokenizer
from equilibrate_core.told_labels import LabelReader, Listed

# N = rows in the batch, P = prompt tokens, V = vocabulary, K = tokens listed
MIN_SHARED_TOKENS = 32  # a shorter common opening is not worth a pass of its own


class TransformersGenerator:
    """A causal language model of transformers as a generator."""

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int, max_model_len: int) -> None:
        self.name = "transformers"
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.max_model_len = min(max_model_len, model.config.max_position_embeddings)
        self.stops = stop_ids(tokenizer)
        # The checkpoint's own sampling defaults must not mix with ours.
        model.generation_config = GenerationConfig()

    @classmethod
    def load(cls, config: GeneratorConfig, model_path: Path) -> "TransformersGenerator":
        """Load model and tokenizer. Raises ModelError when the folder holds none."""
        tokenizer = load_tokenizer(model_path)
        model = load_causal_lm(model_path, dtype=resolve_dtype(config.dtype))
        return cls(
            model, tokenizer, batch_size=config.batch_size, max_model_len=config.max_model_len
        )

    def fits(self, conversation: Conversation, max_tokens: int) -> bool:
        """Whether the conversation leaves room for `max_tokens`."""
        return len(encode_prompt(self.tokenizer, conversation)) + max_tokens <= self.max_model_len

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        schema: JsonSchema | None = None,
        choices: Sequence[str] | None = None,
        on_done: OnDone | None = None,
        on_answer: OnAnswer | None = None,
    ) -> list[Completion]:
        """Answer every conversation; see `Generator.generate`."""
        requests, done = encode_requests(
            self.tokenizer, conversations, sampling, max_model_len=self.max_model_len
        )
        if on_done and done:
            on_done(len(done))
        requests.sort(key=lambda request: len(request.ids))
        labels = None
        if choices is not None and schema is None and sampling.top_p == 1:
            labels = first_tokens(self.tokenizer, choices)
        grammar = None if labels else self._grammar(schema, choices)
        reader = LabelReader.of(self.tokenizer, schema)
        shared = self._shared_cache(requests)
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            completions = (
                self._run_labels(batch, sampling, labels, shared)
                if labels
                else self._run(batch, sampling, grammar, shared, reader)
            )
            for request, completion in zip(batch, completions, strict=True):
                done[request.row] = completion
                if on_answer:
                    on_answer(request.row, completion)
            if on_done:
                on_done(len(batch))
        return in_order(len(conversations), done)

    @torch.inference_mode()
    def _run(
        self,
        batch: Sequence[Request],
        sampling: Sampling,
        grammar: xgrammar.CompiledGrammar | None,
        shared: DynamicCache | None,
        reader: LabelReader | None,
    ) -> list[Completion]:
        processors: list[Any] = [GrammarProcessor(grammar)] if grammar is not None else []
        draw = None
        if sampling.temperature > 0:
            draw = SeededSampling(sampling, [request.seed for request in batch])
        told = ToldTokens(draw) if reader else None
        processors += [last for last in (told or draw,) if last]
        out, width = self._decode(batch, shared, sampling.max_tokens, processors)
        rows = out.sequences[:, width:].tolist()
        done = [completion_of(self.tokenizer, ids, self.stops) for ids in rows]
        if reader is None or told is None:
            return done
        return [
            reader.read(completion, ids, told.of_row(row))
            for row, (completion, ids) in enumerate(zip(done, rows, strict=True))
        ]

    @torch.inference_mode()
    def _run_labels(
        self,
        batch: Sequence[Request],
        sampling: Sampling,
        labels: dict[int, str],
        shared: DynamicCache | None,
    ) -> list[Completion]:
        out, _ = self._decode(batch, shared, 1, [])
        logps_NK = out.logits[0].float().log_softmax(dim=-1)[:, list(labels)]
        return [
            label_completion(
                label_logps(labels, dict(zip(labels, logps, strict=True))), sampling, request.seed
            )
            for request, logps in zip(batch, logps_NK.tolist(), strict=True)
        ]

    def _decode(
        self,
        batch: Sequence[Request],
        shared: DynamicCache | None,
        max_tokens: int,
        processors: Sequence[Any],
    ) -> tuple[Any, int]:
        """What `generate` makes of a batch, and the width of its padded prompts."""
        num_shared = shared.get_seq_length() if shared else 0
        pad_id = (
            self.stops[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        )
        ids_NP, mask_NP = pad_left([r.ids for r in batch], num_shared=num_shared, pad_id=pad_id)
        cache = None
        if shared is not None:
            cache = copy.deepcopy(shared)
            cache.batch_repeat_interleave(len(batch))
        out = self.model.generate(
            ids_NP.to(self.model.device),
            attention_mask=mask_NP.to(self.model.device),
            past_key_values=cache,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max_tokens,
                return_dict_in_generate=True,
                output_logits=max_tokens == 1,
                eos_token_id=self.stops,
                pad_token_id=pad_id,
            ),
            logits_processor=LogitsProcessorList(processors),
        )
        return out, ids_NP.shape[1]

    @torch.inference_mode()
    def _shared_cache(self, requests: Sequence[Request]) -> DynamicCache | None:
        """Keys and values of the opening that all prompts share, or None if it is too short."""
        if len(requests) < 2 or getattr(self.model.config, "sliding_window", None):
            return None
        prefix = common_opening([request.ids for request in requests])
        if len(prefix) < MIN_SHARED_TOKENS:
            return None
        cache = DynamicCache(config=self.model.config)
        ids_1P = torch.tensor([prefix], device=self.model.device)
        self.model(ids_1P, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _grammar(
        self, schema: JsonSchema | None, choices: Sequence[str] | None
    ) -> xgrammar.CompiledGrammar | None:
        if schema is None and choices is None:
            return None
        if schema is not None and choices is not None:
            raise ValueError("give a schema or choices, not both")
        info = xgrammar.TokenizerInfo.from_huggingface(
            self.tokenizer, vocab_size=self.model.config.vocab_size, stop_token_ids=self.stops
        )
        compiler = xgrammar.GrammarCompiler(info)
        if schema is not None:
            return compiler.compile_json_schema(
                json.dumps(schema), any_whitespace=False, separators=(",", ":")
            )
        # EBNF literals are escaped as JSON strings are.
        return compiler.compile_grammar("root ::= " + " | ".join(map(json.dumps, choices or ())))


class SeededSampling(LogitsProcessor):
    """Draws each row's next token from its own random stream.

    Adding Gumbel noise to log-probabilities and taking the largest is a draw from them, so the
    search that follows can stay greedy and no row depends on its neighbours.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.temperature, self.top_p = sampling.temperature, sampling.top_p
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores of shape (N, V) whose largest entry is each row's draw."""
        logits_NV = keep_top_p(scores.float() / self.temperature, self.top_p)
        uniform_NV = torch.stack(
            [torch.rand(logits_NV.shape[1], generator=stream) for stream in self.streams]
        ).clamp_(min=1e-20)
        return logits_NV - torch.log(-torch.log(uniform_NV)).to(logits_NV.device)


class ToldTokens(LogitsProcessor):
    """Notes of every step the likeliest tokens and the one taken, with their log-probs.

    Stands behind the grammar and before `draw`: `told_labels` says why. Of a step it keeps a few
    numbers a row, not the vocabulary's.
    """

    def __init__(self, draw: LogitsProcessor | None) -> None:
        self.draw = draw
        self._steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores that `draw` makes, or those given; the largest of a row is the token taken."""
        logps_NV = scores.float().log_softmax(dim=-1)
        drawn_NV = self.draw(input_ids, scores) if self.draw else scores
        top_NK = logps_NV.topk(min(TOP_LOGPROBS, logps_NV.shape[1])).indices
        ids_NK = torch.cat([drawn_NV.argmax(dim=-1, keepdim=True), top_NK], dim=1)
        self._steps.append((ids_NK, logps_NV.gather(1, ids_NK)))
        return drawn_NV

    def of_row(self, row: int) -> Listed:
        """What was noted of one row, step by step."""

        def listed(step: int) -> dict[int, float]:
            ids_NK, logps_NK = self._steps[step]
            return dict(zip(ids_NK[row].tolist(), logps_NK[row].tolist(), strict=True))

        return listed


def common_opening(rows: Sequence[list[int]]) -> list[int]:
    """Longest list that every row begins with and that leaves each at least one more token."""
    first, last = min(rows), max(rows)
    limit = min(map(len, rows)) - 1
    same = next((i for i in range(limit) if first[i] != last[i]), limit)
    return first[:same]


def keep_top_p(logits_NV: Tensor, top_p: float) -> Tensor:
    """Logits with -inf outside the smallest set of likeliest tokens that reaches `top_p`."""
    if top_p >= 1:
        return logits_NV
    sorted_NV, order_NV = logits_NV.sort(dim=-1, descending=True)
    probs_NV = sorted_NV.softmax(dim=-1)
    before_NV = probs_NV.cumsum(dim=-1) - probs_NV
    dropped_NV = (before_NV >= top_p).scatter(-1, order_NV, before_NV >= top_p)
    return logits_NV.masked_fill(dropped_NV, float("-inf"))


def pad_left(rows: Sequence[list[int]], *, num_shared: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, shape (N, P), padded behind the first `num_shared` tokens."""
    width = max(map(len, rows))
    ids = [r[:num_shared] + [pad_id] * (width - len(r)) + r[num_shared:] for r in rows]
    mask = [[1] * num_shared + [0] * (width - len(r)) + [1] * (len(r) - num_shared) for r in rows]
    return torch.tensor(ids), torch.tensor(mask)
