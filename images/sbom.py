"""Software bill of materials of a built image, as CycloneDX 1.6 JSON.

`python images/sbom.py IMAGE > sbom.json`: asks a container of the image, without network, for its
Python and Debian packages; needs a docker daemon and nothing inside the image but Python.
"""

import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

ASK = """
import json, subprocess
from importlib.metadata import distributions
found = []
for d in distributions():
    licence = d.metadata.get("License-Expression") or d.metadata.get("License") or ""
    found.append(["pypi", d.metadata["Name"], d.version, (licence.splitlines() or [""])[0]])
try:
    form = "${Package}\\t${Version}\\n"
    lines = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True).stdout
    found += [["deb/debian", *line.split("\\t"), ""] for line in lines.splitlines()]
except FileNotFoundError:
    pass
print(json.dumps(found))
"""


def packages(image: str) -> list[list[str]]:
    """[purl type, name, version, licence] of everything installed in an image."""
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=python3", image, "-c", ASK]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def image_digest(image: str) -> str:
    """The image's content digest."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def bill_of_materials(image: str, digest: str, found: list[list[str]]) -> dict[str, Any]:
    """A CycloneDX document; components sorted, one per package and version."""
    components = [_component(*row) for row in sorted({tuple(row) for row in found})]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {
                "type": "container",
                "bom-ref": digest,
                "name": image,
                "version": digest,
            },
        },
        "components": components,
    }


def _component(kind: str, name: str, version: str, licence: str) -> dict[str, Any]:
    canonical = name.lower().replace("_", "-") if kind == "pypi" else name
    purl = f"pkg:{kind}/{quote(canonical)}@{quote(version, safe='')}"
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if licence:
        found["licenses"] = [{"license": {"name": licence[:100]}}]
    return found


if __name__ == "__main__":
    name = sys.argv[1]
    json.dump(bill_of_materials(name, image_digest(name), packages(name)), sys.stdout, indent=1)
