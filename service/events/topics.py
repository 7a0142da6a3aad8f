"""What is said to a broker under which topic (docs/events.md, Topics)."""

from __future__ import annotations

from dataclasses import dataclass

ONLINE, OFFLINE = "online", "offline"
ON, OFF = "ON", "OFF"


@dataclass(frozen=True, slots=True)
class Topics:
    """``base``: the first level, or levels, of all of them."""

    base: str

    @property
    def available(self) -> str:
        """Whether the service is there."""
        return f"{self.base}/available"

    def rule(self, stream: str, rule: str) -> str:
        """What the two of a rule begin with: nothing else does."""
        return f"{self.base}/{level(stream)}/{rule}"

    def event(self, stream: str, rule: str) -> str:
        """Each start, update and end."""
        return f"{self.rule(stream, rule)}/event"

    def state(self, stream: str, rule: str) -> str:
        """Whether any event of it is open."""
        return f"{self.rule(stream, rule)}/state"


def level(name: str) -> str:
    """A stream's name as one level of a topic, no two alike: what would be more than that is written ``%2F``."""
    return "".join(
        char if char.isprintable() and char not in "%/+#" else "".join(f"%{byte:02X}" for byte in _bytes(char))
        for char in name
    )


def _bytes(char: str) -> bytes:
    return char.encode("utf-8", "surrogatepass")
