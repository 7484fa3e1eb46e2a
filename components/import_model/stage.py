"""Bring a model into the pipeline as a Hugging Face directory with a digest.

hub, s3://, folder or GGUF -> base_model.
"""

import logging
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from components.import_model.config import ImportModelConfig
from equilibrate_core.artifacts import MANIFEST, write_json
from equilibrate_core.chat import end_of_turn
from equilibrate_core.errors import ModelError
from equilibrate_core.gguf import convert_gguf
from equilibrate_core.hub import hub_errors, hub_revision, parse_hub_uri
from equilibrate_core.models import check_model_folder, load_tokenizer
from equilibrate_core.small_model import small_model
from equilibrate_core.stage import Metrics, stage_main, start_stage

logger = logging.getLogger(__name__)
NOT_COPIED = (MANIFEST, ".git*", ".cache", "*.gguf", "*.onnx", "*.h5", "*.msgpack")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
"""Loading one of these runs whatever it says, so none enters an artifact."""


def import_model(config: ImportModelConfig, *, base_model: Path) -> Metrics:
    """Copy or convert a model, check that it can be used, and seal it with its digest."""
    run = start_stage("import_model", config)
    with run.output(base_model, "model") as draft:
        with _source(config) as source:
            if source.suffix == ".gguf":
                convert_gguf(source, draft.path)
            elif config.dtype == "auto":
                check_model_folder(source, trust_remote_code=config.trust_remote_code)
                ignore = shutil.ignore_patterns(*_not_copied(config))
                shutil.copytree(source, draft.path, dirs_exist_ok=True, ignore=ignore)
            else:
                check_model_folder(source, trust_remote_code=config.trust_remote_code)
                _convert_dtype(source, draft.path, config)
        check_model_folder(draft.path, trust_remote_code=config.trust_remote_code)
        tokenizer = load_tokenizer(draft.path, trust_remote_code=config.trust_remote_code)
        end = end_of_turn(tokenizer)
        size = sum(path.stat().st_size for path in draft.path.glob("*.safetensors"))
        metrics: Metrics = {"weights_mb": size / 1e6, "vocabulary": len(tokenizer)}
        logger.info("imported %s: %.0f MB, turns end with %s", config.uri, size / 1e6, end)
        write_json(draft.path / "metrics.json", metrics)
    return metrics


@contextmanager
def _source(config: ImportModelConfig) -> Generator[Path]:
    """Local folder or GGUF file of the configured model."""
    uri = config.uri
    if uri == "smollm2":
        yield small_model()
    elif uri.startswith(("hf://", "s3://")):
        with tempfile.TemporaryDirectory() as folder:
            if uri.startswith("hf://"):
                _download_from_hub(config, Path(folder))
            else:
                from equilibrate_core.s3 import download_folder

                download_folder(uri, Path(folder))
            yield Path(folder)
    else:
        path = Path(uri.removeprefix("file://"))
        if not path.exists():
            raise ModelError(f"{uri}: no such folder, GGUF file or known model")
        yield path


def _download_from_hub(config: ImportModelConfig, folder: Path) -> None:
    """Fetch a repository at one commit: all its files, whatever is pushed meanwhile."""
    uri = f"{config.uri}@{config.revision}" if config.revision else config.uri
    commit = hub_revision(uri, "model")
    logger.info("%s: commit %s", uri, commit)
    with hub_errors(uri):
        from huggingface_hub import snapshot_download

        snapshot_download(
            parse_hub_uri(uri).repo,
            revision=commit,
            local_dir=folder,
            ignore_patterns=list(_not_copied(config)),
        )


def _not_copied(config: ImportModelConfig) -> tuple[str, ...]:
    code = () if config.trust_remote_code else ("*.py",)
    return (*NOT_COPIED, *PICKLES, *code)


def _convert_dtype(source: Path, target: Path, config: ImportModelConfig) -> None:
    import torch

    from equilibrate_core.models import load_causal_lm

    dtype = "float32" if config.dtype == "auto" else config.dtype
    trusted = config.trust_remote_code
    on_cpu = torch.device("cpu")  # to be written again: no accelerator need hold it
    model = load_causal_lm(source, dtype=dtype, trust_remote_code=trusted, place=on_cpu)
    model.save_pretrained(target)
    load_tokenizer(source, trust_remote_code=trusted).save_pretrained(target)


if __name__ == "__main__":
    raise SystemExit(stage_main(import_model, ImportModelConfig))
