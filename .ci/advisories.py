"""Whether anything of lock.txt has a known advisory: ``python .ci/advisories.py``. Asks the OSV database.

Exit status 1 for one that ``ALLOWED`` does not name, and for one it names that is none any more. Where the database
cannot be reached it says so, by name, and that is no failure: a build does not depend on somebody else's service.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from lock import Package, packages

DATABASE = "https://api.osv.dev/v1/querybatch"
ANSWER_S = 20
AT_ONCE = 500

ALLOWED: dict[str, str] = {}
"""An advisory's id, and why it does not concern us or what we do about it."""

Ask = Callable[[dict[str, Any]], dict[str, Any]]


def ask(question: dict[str, Any]) -> dict[str, Any]:
    """One question to the database. Raises OSError."""
    request = urllib.request.Request(DATABASE, json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def advisories(of: Sequence[Package], put: Ask = ask) -> dict[str, list[str]]:
    """Packages as ``name==version`` by the advisories that they have. Raises OSError, ValueError where none tells."""
    found: dict[str, list[str]] = {}
    for at in range(0, len(of), AT_ONCE):
        some = of[at : at + AT_ONCE]
        queries = [{"package": {"name": p.name, "ecosystem": "PyPI"}, "version": p.version} for p in some]
        results = put({"queries": queries})["results"]
        for package, result in zip(some, results, strict=True):
            for advisory in (result or {}).get("vulns", []):
                found.setdefault(advisory["id"], []).append(f"{package.name}=={package.version}")
    return found


def report(of: Sequence[Package], put: Ask = ask, allowed: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """The exit status and the lines to print."""
    allowed = ALLOWED if allowed is None else allowed
    try:
        found = advisories(of, put)
    except (OSError, ValueError, KeyError) as error:
        return 0, [f"advisories: not looked up, {DATABASE} does not answer ({error})"]
    lines, status = [], 0
    for name, concerned in sorted(found.items()):
        why = allowed.get(name)
        lines.append(f"{name}: {', '.join(concerned)}: " + (f"allowed, {why}" if why else "not allowed"))
        status = status if why else 1
    for name in sorted(allowed.keys() - found.keys()):
        lines.append(f"{name}: allowed, and nothing has it any more; take it off the list")
        status = 1
    return status, [*lines, f"advisories: {len(of)} packages looked up, {len(found)} advisories"]


if __name__ == "__main__":
    exit_status, said = report(list(packages()))
    print("\n".join(said))
    sys.exit(exit_status)
