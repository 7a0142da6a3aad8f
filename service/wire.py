"""What every model of the wire has in common. Imports nothing of ours."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """Strict base: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")
