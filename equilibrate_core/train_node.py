"""One node of a TrainJob: inputs from S3, the stage under torchrun, its output to S3.

`python3 -m equilibrate_core.train_node …` runs on every node; the Trainer's PET_* variables tell
torchrun about the others. Node 0 uploads the output, manifest last, and then the scalars: whoever
finds those finds a whole output. What stops a node is told beside them, as a small record.
"""

import logging
import os
import signal
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from equilibrate_core.digests import check_code
from equilibrate_core.errors import EquilibrateError, PeerLost, Preempted
from equilibrate_core.json_objects import write_json_object
from equilibrate_core.model_cache import damage_set_aside, unshelve
from equilibrate_core.node_errors import judged, node_rank, tell_error
from equilibrate_core.s3 import download_folder, upload_folder
from equilibrate_core.s3_uris import join_uri
from equilibrate_core.scratch_folders import scratch
from equilibrate_core.stage import configure_logging, report_error
from equilibrate_core.torchrun import run_torchrun

METRICS = "metrics.json"
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node that the command line describes and return its exit code.

    A node that was preempted, or lost another one, ends with 75, which the runtime's failure policy
    starts again.
    """
    configure_logging()
    arguments = _parser().parse_args(argv)
    with _ending_at_sigterm():
        try:
            _run(arguments)
        except PeerLost as error:
            return report_error(judged(error, arguments.result))
        except Exception as error:
            if isinstance(error, EquilibrateError) and not isinstance(error, Preempted):
                tell_error(arguments.result, error)
            return report_error(error)
    return 0


def _run(arguments: Namespace) -> None:
    if arguments.code:  # the tag of an image may lead elsewhere than when the launcher was started
        check_code(*_named(arguments.code))
    inputs, outputs = (
        dict(_named(pair) for pair in p) for p in (arguments.input, arguments.output)
    )
    with scratch() as folder:
        run_node(arguments.stage, arguments.config, inputs, outputs, arguments.result, folder)


@contextmanager
def _ending_at_sigterm() -> Generator[None]:
    """Within the block SIGTERM ends this process at once: there is nothing to save here.

    A pod's first process has no default handlers: without one it would ignore the signal. Where
    torchrun runs, `run_torchrun` hands the signal on instead.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, b"error: told to stop; all nodes start again\n")
        os._exit(Preempted.exit_code)  # no waiting for threads that try a transfer again

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _named(pair: str) -> tuple[str, str]:
    name, _, uri = pair.partition("=")
    return name, uri


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="equilibrate_core.train_node", description=__doc__)
    parser.add_argument("--stage", required=True, help="module of the stage")
    parser.add_argument("--config", required=True, help="its config as inline JSON")
    parser.add_argument("--code", metavar="NAME=DIGEST", help="the code that the job was made for")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=URI")
    parser.add_argument("--output", action="append", default=[], metavar="NAME=URI")
    parser.add_argument("--result", required=True, metavar="URI", help="for scalars and errors")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
