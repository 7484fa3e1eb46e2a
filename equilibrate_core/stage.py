"""What turns a function into a stage: provenance for its outputs and a command line of its own."""

import inspect
import json
import logging
import os
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from equilibrate_core.artifacts import StageRun, verify_artifact, write_json
from equilibrate_core.config import StageConfig, load_config
from equilibrate_core.digests import code_digest, installed_packages
from equilibrate_core.end_with_parent import end_with_parent
from equilibrate_core.errors import EquilibrateError, PeerLost, Preempted, StageError, UserError
from equilibrate_core.peer_loss import lost_peer
from equilibrate_core.redaction import RedactingFormatter, redact
from equilibrate_core.scratch_folders import own_temporary_files

Metrics = dict[str, float]
"""The scalars a stage reports: they become KFP Metrics and metrics.json."""

Stage = Callable[..., Metrics]
ERROR_KINDS: tuple[type[EquilibrateError], ...] = (Preempted, UserError, PeerLost, StageError)
"""What a process tells its parent apart."""
PEER_LOST_CODE = 76
"""What a process under torchrun ends with when another one went away."""


def start_stage(stage: str, config: StageConfig, **inputs: Path | None) -> StageRun:
    """Verify every input artifact and open the run whose outputs will name their digests.

    Inputs that are None (optional and not given) are left out.
    """
    digests = {n: verify_artifact(path).digest for n, path in inputs.items() if path is not None}
    return StageRun(
        stage=stage,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        code_version=code_digest(stage),
        inputs=digests,
        packages=installed_packages(stage),
    )


def stage_parser(stage: Stage, config_type: type[StageConfig]) -> ArgumentParser:
    """Command-line parser of a stage: --config plus one option per path of its signature."""
    parser = ArgumentParser(
        prog=f"equilibrate stage {stage.__name__}", description=inspect.getdoc(stage)
    )
    parser.add_argument(
        "--config",
        default="{}",
        help="YAML/JSON file, or inline JSON; see the fields of "
        f"{config_type.__module__}.{config_type.__name__}",
    )
    parser.add_argument("--metrics", type=Path, help="also write the returned scalars to this file")
    for name, parameter in _paths(stage).items():
        required = parameter.default is inspect.Parameter.empty
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            f"--{name}",
            dest=name,
            type=Path,
            required=required,
            help="artifact folder" + ("" if required else " (optional)"),
        )
    return parser


def stage_main(
    stage: Stage, config_type: type[StageConfig], argv: Sequence[str] | None = None
) -> int:
    """Run a stage on files and return the exit code: 0, 2 for a user's mistake, 1 otherwise.

    Standard output gets one line of JSON and nothing else: what libraries print there (DeepSpeed
    logs to it) goes to stderr.
    """
    configure_logging()
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if under_torchrun:  # it would leave its processes behind
        end_with_parent()
    temporary = nullcontext() if under_torchrun else own_temporary_files()  # one for all of them
    arguments = vars(stage_parser(stage, config_type).parse_args(argv))
    metrics_path = arguments.pop("metrics")
    try:
        with redirect_stdout(sys.stderr), temporary:
            metrics = stage(load_config(arguments.pop("config"), config_type), **arguments)
        # One `metrics` for all processes of a node: its first speaks for all.
        if metrics_path is not None and os.environ.get("LOCAL_RANK", "0") == "0":
            write_json(metrics_path, metrics)
    except Exception as error:
        lost = lost_peer(error)
        told = lost or error
        if metrics_path is not None and isinstance(told, EquilibrateError):
            _leave_error(metrics_path, told)
        code = report_error(error)  # as it was: the connection may have broken for another reason
        return PEER_LOST_CODE if lost else code
    print(json.dumps({"stage": stage.__name__, "metrics": metrics}))
    return 0


def configure_logging() -> None:
    """Log our own lines from INFO on, and other libraries' from WARNING on, to stderr.

    Libraries may have set up logging before us (kfp does), hence `force`.
    """
    form = "%(asctime)s %(levelname)s %(message)s"
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter(form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("equilibrate_core", "components", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)


def report_error(error: Exception) -> int:
    """Print an error as a user should see it and return the exit code it deserves."""
    if isinstance(error, EquilibrateError):
        for line in redact(str(error)).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return 1


def child_error(metrics_path: Path) -> EquilibrateError | None:
    """What stopped a process that was started to write `metrics_path`, if one said so.

    Of several, one that lost another process says least.
    """
    paths = sorted(metrics_path.parent.glob(f"{metrics_path.name}.error-*"))
    errors = [error_of(json.loads(path.read_text())) for path in paths]
    return min(errors, key=lambda error: isinstance(error, PeerLost), default=None)


def error_record(error: EquilibrateError) -> dict[str, str]:
    """An error as another process can be told of it; `error_of` turns it back."""
    name = next((k.__name__ for k in ERROR_KINDS if isinstance(error, k)), StageError.__name__)
    return {"kind": name, "message": str(error)}


def error_of(record: Mapping[str, str]) -> EquilibrateError:
    """The error of a record: of the kind that gives the same exit code."""
    kinds = {kind.__name__: kind for kind in ERROR_KINDS}
    return kinds[record["kind"]](record["message"])


def _leave_error(metrics_path: Path, error: EquilibrateError) -> None:
    rank = os.environ.get("RANK", "0").zfill(5)
    path = metrics_path.with_name(f"{metrics_path.name}.error-{rank}")
    write_json(path, error_record(error))


def _paths(stage: Stage) -> dict[str, Any]:
    parameters = inspect.signature(stage).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
