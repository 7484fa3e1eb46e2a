"""How text is generated, as configs: which backend, with what resources, sampled how."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from equilibrate_core.config import Config

Backend = Literal["auto", "vllm", "transformers", "endpoint"]
Structured = Literal["json_schema", "vllm", "json_object", "none"]


class GeneratorConfig(Config):
    """Where generated text comes from."""

    backend: Backend = "auto"
    """`vllm` and `transformers` run the model in this container, `endpoint` asks an
    OpenAI-compatible server; `auto` is vllm where it can run, transformers elsewhere, and the
    choice is logged."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights in memory: `auto` is bfloat16 on accelerators and on CPUs with
    instructions for it, float32 on others, where bfloat16 is emulated and slower; logged."""
    batch_size: int = Field(default=64, ge=1)
    """Sequences generated at once; vllm adds new ones as others end."""
    max_model_len: int = Field(default=4096, ge=16)
    """Tokens of prompt and answer together; a row that needs more fails. Lowered to what the model
    was made for."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Accelerators that share one model (vllm)."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of an accelerator's memory that vllm takes (its own default)."""
    enforce_eager: bool = False
    """Skip vllm's compilation: slower tokens, faster start. Always so on CPUs, where compiling
    takes over a minute."""
    cpu_kv_cache_gib: int = Field(default=2, ge=1)
    """GiB of main memory for vllm's key-value cache on CPUs."""
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://")
    """Base URL of the server, ending before /chat/completions, e.g. http://judge:8000/v1."""
    endpoint_model: str | None = Field(default=None, min_length=1)
    """Name the server knows the model by."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the API key (never the key); None for a server
    that asks for none."""
    endpoint_logprobs: bool = False
    """Ask the server for the log-probabilities of its tokens, to tell how sure a verdict is; not
    all servers give them."""
    endpoint_structured: Structured = "json_schema"
    """How the server is told the form of a verdict: `json_schema` in OpenAI's strict way, `vllm` by
    vllm's own `structured_outputs`, with which a verdict without a reason is a bare word of one or
    two tokens instead of an object of several, `json_object` as JSON of any form, `none` by the
    prompt alone. Answers are checked here, whichever it is."""
    endpoint_token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the longest answer in tokens; OpenAI's reasoning models know the second
    name only."""
    endpoint_send_sampling: bool = True
    """Send temperature, top_p and seed. False for servers that refuse them, e.g. OpenAI's reasoning
    models: those draw every answer their own way, the first vote as well."""
    concurrency: int = Field(default=16, ge=1)
    """Requests in flight at once (endpoint); while the server says that it is overloaded, all of
    them wait."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds until one request counts as hanging (endpoint)."""
    max_retries: int = Field(default=5, ge=0)
    """Further attempts after 429, 5xx, time-outs and broken answers, with exponential back-off
    (endpoint)."""
    max_failures_in_a_row: int = Field(default=64, ge=0)
    """Rows that use up all their attempts one after the other, with no answer to any in between,
    until the server counts as down and the stage ends; what it answered is kept (endpoint). Keep
    it several times `concurrency`. 0 never gives up: rows then go on failing until their share is
    too high."""

    @model_validator(mode="after")
    def _endpoint_is_complete(self) -> "GeneratorConfig":
        given = (self.endpoint_url, self.endpoint_model)
        if self.backend == "endpoint" and None in given:
            raise ValueError("backend endpoint needs endpoint_url and endpoint_model")
        if self.backend != "endpoint" and given != (None, None):
            raise ValueError(
                f"endpoint_url and endpoint_model go with backend endpoint, not {self.backend}"
            )
        return self


def _runs_the_given_model(config: GeneratorConfig) -> GeneratorConfig:
    if config.backend == "endpoint":
        raise ValueError(
            "backend endpoint answers with the server's model, whichever model the task is given, "
            "so the answers would be another model's; use auto, vllm or transformers"
        )
    return config


OwnModelGenerator = Annotated[GeneratorConfig, AfterValidator(_runs_the_given_model)]
"""Where a model of the run itself answers; only judges may be servers."""


class Sampling(Config):
    """How tokens are drawn."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 always takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest tokens that make up this share of the probability."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer in tokens, end-of-turn included; longer ones are cut and marked `length`."""
    seed: int = Field(default=0, ge=0)
    """Mixed with each prompt into that row's own seed, so that batch order does not matter."""
