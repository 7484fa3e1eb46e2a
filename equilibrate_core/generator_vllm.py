"""Generation with vllm, in this process or in some of its own."""

import io
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from equilibrate_core.chat import encode_prompt
from equilibrate_core.completions import (
    Completion,
    Conversation,
    JsonSchema,
    OnAnswer,
    OnDone,
    completion_of,
    encode_requests,
    in_order,
    stop_ids,
)
from equilibrate_core.errors import StageError
from equilibrate_core.generator_config import GeneratorConfig, Sampling
from equilibrate_core.generator_dtype import resolve_dtype
from equilibrate_core.label_tokens import (
    TOP_LOGPROBS,
    closed_set,
    first_tokens,
    label_completion,
    label_logps,
)
from equilibrate_core.models import check_model_folder, load_tokenizer
from equilibrate_core.told_labels import LabelReader, Listed
from equilibrate_core.vllm_process import device_options, start_errors, stop, vllm_process


class VllmGenerator:
    """A running vllm engine as a generator."""

    def __init__(self, engine: Any, tokenizer: Any) -> None:
        self.name = "vllm"
        self.engine, self.tokenizer = engine, tokenizer
        self.max_model_len = int(engine.model_config.max_model_len)
        self.stops = stop_ids(tokenizer)

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
        if not requests:
            return in_order(len(conversations), done)
        labels = None
        if choices is not None and schema is None and sampling.top_p == 1:
            labels = first_tokens(self.tokenizer, choices)
        params = [
            label_params(labels)
            if labels
            else sampling_params(sampling, request.seed, self.stops, schema=schema, choices=choices)
            for request in requests
        ]
        try:
            outputs = self.engine.generate(
                [{"prompt_token_ids": request.ids} for request in requests],
                params,
                use_tqdm=_ticking_bar(on_done) if on_done else False,
            )
        except Exception as error:  # the engine process died: no row can be answered any more
            raise StageError(f"vllm stopped while generating: {error}") from error
        reader = LabelReader.of(self.tokenizer, schema)
        for request, output in zip(requests, outputs, strict=True):
            answer = output.outputs[0]
            done[request.row] = (
                label_completion(_label_logps(labels, answer), sampling, request.seed)
                if labels
                else self._completion(answer, reader)
            )
            if on_answer:
                on_answer(request.row, done[request.row])
        return in_order(len(conversations), done)

    def _completion(self, answer: Any, reader: LabelReader | None) -> Completion:
        ids = list(answer.token_ids)
        completion = completion_of(self.tokenizer, ids, self.stops)
        return reader.read(completion, ids, _listed(answer)) if reader else completion


@contextmanager
def open_vllm(config: GeneratorConfig, model_path: Path) -> Generator[VllmGenerator]:
    """Start an engine, yield its generator, stop it with its processes, restore the environment."""
    check_model_folder(model_path)
    tokenizer = load_tokenizer(model_path)
    stop_ids(tokenizer)  # a tokenizer without a usable template fails before the slow start
    with vllm_process():
        engine = _start(config, model_path)
        try:
            yield VllmGenerator(engine, tokenizer)
        finally:
            stop(engine)


def sampling_params(
    sampling: Sampling,
    seed: int,
    stops: Sequence[int],
    *,
    schema: JsonSchema | None,
    choices: Sequence[str] | None,
) -> Any:
    """Parameters of one request as vllm wants them."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    structured = None
    if schema is not None and choices is not None:
        raise ValueError("give a schema or choices, not both")
    if schema is not None:
        structured = StructuredOutputsParams(json=schema, disable_any_whitespace=True)
    elif choices is not None:
        structured = StructuredOutputsParams(choice=list(choices))
    has_labels = schema is not None and closed_set(schema) is not None
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed,
        stop_token_ids=list(stops),
        detokenize=False,
        structured_outputs=structured,
        logprobs=TOP_LOGPROBS if has_labels else None,
        flat_logprobs=has_labels,
    )


def label_params(labels: dict[int, str]) -> Any:
    """Parameters of a verdict in one token: the log-probabilities of what labels begin with."""
    from vllm import SamplingParams

    ids = list(labels)
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        allowed_token_ids=ids,
        logprob_token_ids=ids,
        detokenize=False,
    )


def _label_logps(labels: dict[int, str], answer: Any) -> dict[str, float]:
    first = answer.logprobs[0]
    return label_logps(labels, {token: first[token].logprob for token in labels})


def _listed(answer: Any) -> Listed:
    return lambda step: {token: told.logprob for token, told in answer.logprobs[step].items()}


def _start(config: GeneratorConfig, model_path: Path) -> Any:
    from vllm import LLM
    from vllm.platforms import current_platform

    options: dict[str, Any] = {"enforce_eager": config.enforce_eager}
    options |= device_options(
        tensor_parallel_size=config.tensor_parallel_size,
        cpu_kv_cache_gib=config.cpu_kv_cache_gib,
        gpu_memory_utilization=config.gpu_memory_utilization,
    )
    if current_platform.is_cpu():
        # A judge's instructions are reused up to a block's boundary; the default of 128 would
        # compute up to 127 tokens of them again for every row.
        options["block_size"] = 32
    with start_errors(model_path):
        return LLM(
            model=str(model_path),
            load_format="safetensors",  # "auto" would fall back to pickles
            trust_remote_code=False,
            dtype=resolve_dtype(config.dtype),
            max_model_len=_model_len(config, model_path),
            max_num_seqs=config.batch_size,
            tensor_parallel_size=config.tensor_parallel_size,
            enable_prefix_caching=True,
            generation_config="vllm",  # not the checkpoint's own sampling defaults
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
            disable_log_stats=True,
            **options,
        )


def _model_len(config: GeneratorConfig, model_path: Path) -> int:
    from transformers import AutoConfig

    text_config = AutoConfig.from_pretrained(
        model_path, local_files_only=True, trust_remote_code=False
    ).get_text_config()
    return min(config.max_model_len, int(text_config.max_position_embeddings))


def _ticking_bar(on_done: OnDone) -> type[Any]:
    """What vllm takes for a progress bar; it tells `on_done` instead of drawing."""
    from tqdm import tqdm

    class TickingBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts = options.get("desc") == "Processed prompts"
            super().__init__(*args, **{**options, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            if self.counts:
                on_done(int(n or 0))
            return super().update(n)

    return TickingBar
