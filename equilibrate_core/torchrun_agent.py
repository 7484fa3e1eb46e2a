"""torchrun, which also leaves behind how the processes ended that failed first.

A file and torchrun's own arguments -> {rank: exit code} in the file, when a process failed:
torchrun itself ends with 1 whatever happened.
"""

import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from equilibrate_core.artifacts import write_json


def main(codes: str, *arguments: str) -> None:
    """Run torchrun to its end."""
    try:
        torchrun(list(arguments))
    except ChildFailedError as error:
        write_json(Path(codes), {str(r): failure.exitcode for r, failure in error.failures.items()})
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
