"""The same API on many machines: ``serve run stmixer.service.cluster:app`` (docs/cluster.md).

Needs the extra ``cluster``. Ray's own processes import a module or two of this, and nothing of the service with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def app(arguments: dict[str, Any]) -> Application:
    """The application, of what ``serve run`` or its file gives. Raises StartError."""
    from stmixer.service.cluster.application import application

    return application(arguments)
