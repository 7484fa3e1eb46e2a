"""One node of a TrainJob: inputs from S3, the stage under torchrun, its output to S3.

`python3 -m equilibrate_core.train_node …` runs on every node; the Trainer's PET_* variables tell
torchrun about the others. Node 0 uploads the output, manifest last, and then the scalars: whoever
finds those finds a whole output. What stops a node is told beside them, as a small record.
"""

import logging
import os
import tempfile
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from equilibrate_core.errors import EquilibrateError, Preempted
from equilibrate_core.json_objects import write_json_object
from equilibrate_core.model_cache import damage_set_aside, unshelve
from equilibrate_core.s3 import download_folder, upload_folder
from equilibrate_core.s3_uris import join_uri
from equilibrate_core.stage import configure_logging, error_record, report_error
from equilibrate_core.torchrun import run_torchrun

METRICS = "metrics.json"
ERRORS = "error-"
MEETING_TIMEOUT_S = 3600
"""Seconds that a node waits for the others: they may download their inputs more slowly."""
logger = logging.getLogger(__name__)


def run_node(
    module: str,
    config: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    result_uri: str,
    folder: Path,
) -> None:
    """Run one node's part of a stage; inputs and outputs are s3:// URIs by argument name.

    `result_uri` is where scalars and errors go; `folder` is empty and has room for all of it.
    """
    arguments, found = ["--config", config], dict[str, Path]()
    for name, uri in inputs.items():
        logger.info("fetching %s from %s", name, uri)
        download_folder(uri, folder / "inputs" / name)
        found[name] = unshelve(folder / "inputs" / name)
        arguments += [f"--{name}", str(found[name])]
    for name in outputs:
        arguments += [f"--{name}", str(folder / "outputs" / name)]
    metrics = folder / METRICS
    options = [f"--rdzv-conf=timeout={MEETING_TIMEOUT_S}"]
    with damage_set_aside(found.values()):
        scalars = run_torchrun(module, arguments, options, metrics)
    if node_rank() == 0:
        for name, uri in outputs.items():
            logger.info("uploading %s to %s", name, uri)
            upload_folder(folder / "outputs" / name, uri)
        write_json_object(join_uri(result_uri, METRICS), scalars)


def node_rank() -> int:
    """Which node this is; the Trainer says it."""
    return int(os.environ.get("PET_NODE_RANK", "0"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node that the command line describes and return its exit code.

    A node that was preempted ends with 75, which the runtime's failure policy starts again.
    """
    configure_logging()
    arguments = _parser().parse_args(argv)
    inputs, outputs = (
        dict(_named(pair) for pair in p) for p in (arguments.input, arguments.output)
    )
    try:
        with tempfile.TemporaryDirectory(prefix="equilibrate-node-") as folder:
            run_node(
                arguments.stage,
                arguments.config,
                inputs,
                outputs,
                arguments.result,
                Path(folder),
            )
    except Exception as error:
        if isinstance(error, EquilibrateError) and not isinstance(error, Preempted):
            _tell(arguments.result, error)
        return report_error(error)
    return 0


def _tell(result_uri: str, error: EquilibrateError) -> None:
    """Leave the error where the launching task finds it; the node's own log has it too."""
    try:
        uri = join_uri(result_uri, f"{ERRORS}{node_rank():05d}.json")
        write_json_object(uri, dict(error_record(error)))
    except EquilibrateError as untold:
        logger.warning("%s", untold)


def _named(pair: str) -> tuple[str, str]:
    name, _, uri = pair.partition("=")
    return name, uri


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="equilibrate_core.train_node", description=__doc__)
    parser.add_argument("--stage", required=True, help="module of the stage")
    parser.add_argument("--config", required=True, help="its config as inline JSON")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=URI")
    parser.add_argument("--output", action="append", default=[], metavar="NAME=URI")
    parser.add_argument("--result", required=True, metavar="URI", help="for scalars and errors")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
