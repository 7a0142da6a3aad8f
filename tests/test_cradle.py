"""One cradle that ends or hangs costs the test that has it, and no other."""

from __future__ import annotations

import os
import signal
import socket

import cradle
import pytest

from stmixer.service.ipc.channel import ChannelError
from stmixer.service.sources.nursery import KILLED


def test_another_takes_the_place_of_one_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cradle, "_cradles", [])
    first = cradle.the_cradle()
    assert cradle.the_cradle() is first
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = first.bear(theirs)
        os.kill(first._process.pid, signal.SIGKILL)
        first._process.wait(60)
        second = cradle.the_cradle()
        assert second.alive
        assert first.reap(pid) == KILLED
        first.end()
        second.end()


def test_one_that_hangs_is_waited_for_no_longer_than_it_may_take() -> None:
    hangs = cradle.Cradle()
    hangs._ours.settimeout(0.2)
    os.kill(hangs._process.pid, signal.SIGSTOP)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ChannelError):
        hangs.bear(theirs)
    assert not hangs.alive


def test_the_end_waits_for_nobody() -> None:
    hangs = cradle.Cradle()
    os.kill(hangs._process.pid, signal.SIGSTOP)
    hangs.end()
    assert not hangs.alive
