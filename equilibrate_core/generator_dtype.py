"""Which precision a generator's weights take when its config leaves the choice to the machine."""

import logging
from pathlib import Path
from typing import Literal

import torch

from equilibrate_core.models import Precision

logger = logging.getLogger(__name__)


def resolve_dtype(dtype: Literal["auto", "float32", "bfloat16"]) -> Precision:
    """`auto` as bfloat16 where the hardware computes in it, else float32; other names as given."""
    if dtype != "auto":
        return dtype
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set[str]()
    native = torch.cuda.is_available() or bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    chosen: Precision = "bfloat16" if native else "float32"
    logger.info("generator: dtype auto chose %s", chosen)
    return chosen
