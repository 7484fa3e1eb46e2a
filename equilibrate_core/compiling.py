"""Decoder layers that torch compiles, and what a machine needs for that and for flex attention.

settings -> a clear refusal, or layers that compile when they are first run.
"""

import os
import shlex
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from equilibrate_core.errors import ConfigError, ModelError
from equilibrate_core.models import Attention, device

MAX_VERSIONS = 32
"""Compiled versions of a layer: training and evaluation, rows of one and of two answers, adapters
on and off, and a batch of one row each. Beyond torch's limit of 8 it would run as it is."""


def check_kernels(attention: Attention, *, compiles: bool, trains: bool) -> None:
    """Raise ConfigError where this machine cannot do what these settings ask for."""
    on_cpu = device().type == "cpu"
    flexes = attention == "flex_attention"
    if flexes and on_cpu and (trains or compiles):
        reason = "has no backward pass for it" if trains else "cannot compile layers around it"
        raise ConfigError(
            f"attention: flex_attention is not possible here: on CPUs torch {reason}; set "
            "attention: sdpa"
        )
    if flexes or compiles:
        _check_compiler("compile: true" if compiles else f"attention: {attention}", on_cpu=on_cpu)


def _check_compiler(setting: str, *, on_cpu: bool) -> None:
    # inductor's C++ on CPUs, Triton's launchers in C on GPUs; both look into these variables.
    variable, usual = ("CXX", ("g++",)) if on_cpu else ("CC", ("gcc", "clang"))
    named = shlex.split(os.environ.get(variable, ""))[:1] or usual
    if not any(shutil.which(name) for name in named):
        raise ConfigError(
            f"{setting} needs a compiler, and this machine has no {' or '.join(named)}; install "
            f"one, name it in {variable}, or leave the setting out"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise ConfigError(
            f"{setting} needs Python's headers, and {header} is not there; install them (python3-"
            "dev), or leave the setting out"
        )


def compile_layers(model: Any) -> None:
    """Have torch compile every decoder layer: one code for all of them and all lengths.

    Names and weights stay as they are. What runs the model before the first batch does, such as
    `has_plain_head`, is best done before. Raises ModelError where the family has no such layers.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"compile: true finds no layers in {type(model).__name__}; leave the setting out"
        )
    for layer in layers:
        layer.compile(dynamic=True, recompile_limit=MAX_VERSIONS)
