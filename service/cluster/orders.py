"""What goes between replicas and their coordinator: a stream's order, and why it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from stmixer.service.errors import AccessError, CapacityError, InputError, StmixerError

NAMESPACE = "stmixer"
"""Of the coordinator, and of what lies in Ray's store."""
PROTOCOL = 5
"""Of what replicas and their coordinator say, and of its table: a replica of another one has another coordinator."""


@dataclass(frozen=True, slots=True)
class PullRefusal:
    """Why a stream does not begin: an error of ours on its way between processes."""

    code: str
    message: str
    status: int
    retry_after_s: int | None

    @classmethod
    def of(cls, error: StmixerError) -> PullRefusal:
        """An error as it travels."""
        wait = error.retry_after_s if isinstance(error, CapacityError) else None
        return cls(error.code, str(error), error.status, wait)

    def error(self) -> StmixerError:
        """The error that it was."""
        if self.retry_after_s is not None:
            return CapacityError(self.code, self.message, self.status, self.retry_after_s)
        kind = AccessError if self.status in (401, 403) else InputError
        return kind(self.code, self.message, self.status)


@dataclass(frozen=True, slots=True)
class Order:
    """A stream to be fetched: its number, a ``PullOrder`` as JSON, the hash of the key that asked for it ("" where no
    keys are), and its name in ``--streams`` where it stands there. ``lasts``: it has run, or stands in the file, so
    what is not to be had now may be later."""

    number: int
    text: str
    owner: str
    filed: str | None = None
    lasts: bool = False
