"""hf:// URIs: what they name, which commit that is now, and one clear line when the hub refuses."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from equilibrate_core.errors import DataError, EquilibrateError

SCHEME = "hf://"
_URI = re.compile(
    r"hf://(?:datasets/|models/)?(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<subset>[\w.-]+))?"
    r"(?:@(?P<revision>[\w./-]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubUri:
    """A repository on the hub: `hf://org/name[/subset][@revision]`."""

    repo: str
    subset: str | None
    """Configuration of a dataset that has several."""
    revision: str | None
    """Branch, tag or commit; None for the default branch."""


def parse_hub_uri(uri: str) -> HubUri:
    """Parts of an hf:// URI. Raises DataError when it is not one."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise DataError(f"{uri}: not a hub URI; expected hf://org/name[/subset][@revision]")
    return HubUri(**found.groupdict())


def hub_revision(uri: str, kind: Literal["dataset", "model"]) -> str:
    """Commit an hf:// URI stands for now; a full commit is returned without asking the hub."""
    target = parse_hub_uri(uri)
    if target.revision and _COMMIT.fullmatch(target.revision):
        return target.revision
    with hub_errors(uri):
        from huggingface_hub import HfApi  # seconds to import, needed for hf:// alone

        info = HfApi().repo_info(target.repo, repo_type=kind, revision=target.revision)
        return str(info.sha)


@contextmanager
def hub_errors(uri: str) -> Generator[None]:
    """Turn any failure inside the block into a DataError that names `uri`."""
    try:
        yield
    except EquilibrateError:
        raise
    except Exception as error:  # the hub's clients share no base class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"{uri}: the hub did not give it: {reason}; check the name, split and revision, "
            "HF_TOKEN for gated sets, and HF_ENDPOINT or HF_HUB_OFFLINE"
        ) from error
