"""What the service has promised is not excused by those of its processes, or of others, that keep the cores busy."""

from __future__ import annotations

from concurrent.futures import Future
from typing import cast

import drills
import pytest
from drills import answer_within
from serving import Server

API, WORKER = 1, 2


class Machine:
    """A clock that runs while somebody waits, and who has no core meanwhile. An answer comes after ``late_s``."""

    def __init__(self, late_s: float, **starved: float) -> None:
        """``starved``: which part of the time the API process and the worker wait for a core."""
        self.now = 0.0
        self._late_s, self._starved = late_s, {API: starved.get("api", 0.0), WORKER: starved.get("worker", 0.0)}
        self.pid, self.children, self.process, self.log = API, [], self, list[str]()

    def monotonic(self) -> float:
        return self.now

    def queued_s(self, pid: int) -> float:
        return 1000 + self.now * self._starved[pid]

    def without_a_core_s(self, _: object) -> dict[int, float]:
        return {pid: self.queued_s(pid) for pid in self._starved}

    def result(self, timeout: float) -> str:
        self.now = min(self.now + timeout, max(self.now, self._late_s))
        if self.now < self._late_s:
            raise TimeoutError
        return "late"

    def done(self) -> bool:
        return False

    def metrics(self) -> str:
        return ""


def ask(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> str:
    monkeypatch.setattr(drills, "time", machine)
    monkeypatch.setattr(drills, "queued_s", machine.queued_s)
    monkeypatch.setattr(drills, "without_a_core_s", machine.without_a_core_s)
    monkeypatch.setattr(drills, "standing", lambda _: "it is at nothing")
    return answer_within(cast(Future[str], machine), cast(Server, machine), 5)


@pytest.mark.parametrize(
    "machine", [Machine(5.5), Machine(5.5, worker=0.99), Machine(60, worker=1.0), Machine(10.5, api=0.5, worker=0.99)]
)
def test_an_answer_that_comes_too_late_is_none(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    with pytest.raises(AssertionError, match="no answer in 5 s"):
        ask(monkeypatch, machine)
    assert machine.now < 11


@pytest.mark.parametrize("machine", [Machine(4.9), Machine(9.5, api=0.5)])
def test_what_comes_in_time_is_the_answer(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    assert ask(monkeypatch, machine) == "late"
