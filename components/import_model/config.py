"""Config of import_model."""

from typing import Literal

from pydantic import Field

from equilibrate_core.config import StageConfig


class ImportModelConfig(StageConfig):
    """Where a model comes from."""

    uri: str = Field(min_length=1)
    """`hf://org/name[@revision]`, `s3://bucket/prefix`, a folder, a GGUF file, or `smollm2` for the
    small model that `equilibrate fetch-model` keeps in the user's cache."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; a commit pins it. A run resolves any other once, and
    reads that commit."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the stored weights; `auto` keeps the source's (GGUF gives float32)."""
    trust_remote_code: bool = False
    """Run Python code that ships with the model; leave off unless you have read it."""
