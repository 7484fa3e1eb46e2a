"""resolve_inputs: URIs → a JSON text {uri: digest} that changes when what they lead to does.

The text is a parameter of the tasks that read the URIs, so that their cache sees the content;
an artifact would not do, since its fresh id alone would invalidate everything downstream.
"""

import json
from collections.abc import Sequence

from components.resolve_inputs.config import ResolveInputsConfig
from equilibrate_core.inputs import uri_digest
from equilibrate_core.stage import stage_main


def resolve_inputs(config: ResolveInputsConfig) -> str:
    """Digest of every URI, as one line of JSON with sorted keys.

    Local files and folders by SHA-256, objects by version id or ETag, size and key, hub
    repositories by commit. Raises DataError or StorageError for the first that is not there.
    """
    digests = {source.uri: uri_digest(source.uri, "dataset") for source in config.sources}
    digests |= {uri: uri_digest(uri, "model") for uri in config.uris}
    return _text(digests)


def told_of(uris: Sequence[str], digests: str) -> str:
    """The part of what `resolve_inputs` gave that is about these URIs, as JSON again."""
    found: dict[str, str] = json.loads(digests)
    return _text({uri: found[uri] for uri in uris})


def _text(digests: dict[str, str]) -> str:
    return json.dumps(digests, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    raise SystemExit(stage_main(resolve_inputs, ResolveInputsConfig))
