"""What a release is made of, as CycloneDX 1.6: ``python .ci/sbom.py > stmixer-VERSION.cdx.json``.

Packages are those of lock.txt, images those that ours are built from and stand beside (``images``).
"""

from __future__ import annotations

import json
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

from images import Image, images
from lock import LOCK, Package, packages

PYPROJECT = LOCK.parent / "pyproject.toml"


def sbom(lock: Path = LOCK, pyproject: Path = PYPROJECT) -> dict[str, Any]:
    """The document. The same lock gives the same one."""
    project = tomllib.loads(pyproject.read_text())["project"]
    root = f"pkg:pypi/{project['name']}@{project['version']}"
    components = [*map(_component, packages(lock)), *map(_container, images(pyproject.parent))]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, root + lock.read_text()).urn,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "name": project["name"], "version": project["version"], "bom-ref": root,
                "purl": root, "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [component["bom-ref"] for component in components]}],
    }  # fmt: skip


def _component(package: Package) -> dict[str, Any]:
    """Hashes are of the distributed files, of which each machine takes one."""
    purl = f"pkg:pypi/{package.name}@{package.version}"
    found: dict[str, Any] = {
        "type": "library", "name": package.name, "version": package.version, "bom-ref": purl, "purl": purl,
        "externalReferences": [
            {
                "type": "distribution", "url": purl,
                "hashes": [{"alg": "SHA-256", "content": value} for value in package.sha256],
            }
        ],
    }  # fmt: skip
    if package.marker:
        found["properties"] = [{"name": "python:marker", "value": package.marker}]
    return found


def _container(image: Image) -> dict[str, Any]:
    """Its digest is that of the list of what it is for each kind of machine."""
    name, _, version = image.version.partition(":")
    algorithm, _, value = (image.digest or "").partition(":")
    purl = f"pkg:docker/{name}@{algorithm}%3A{value}?tag={version}"
    return {
        "type": "container", "name": name, "version": version, "bom-ref": purl, "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": value}],
    }  # fmt: skip


if __name__ == "__main__":
    json.dump(sbom(), sys.stdout, indent=1)
    print()
