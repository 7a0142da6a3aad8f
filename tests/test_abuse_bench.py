"""`bench.abuse`: the bound that it holds the service to."""

from __future__ import annotations

from typing import Any

import pytest

from bench.abuse import bound_ms, verdict


def seen(p95_ms: float, healthz_p99_ms: float, ok_share: float = 1.0) -> dict[str, Any]:
    return {"p95_ms": p95_ms, "healthz_p99_ms": healthz_p99_ms, "ok_share": ok_share}


@pytest.mark.parametrize(("peace", "bound"), [(40, 50), (100, 110), (250, 275)])
def test_ten_percent_or_ten_milliseconds_whichever_is_more(peace: float, bound: float) -> None:
    assert bound_ms(peace) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("p95_ms", "healthz_p99_ms", "held"), [(210, 20, True), (221, 5, False), (200, 21, False), (float("inf"), 5, False)]
)
def test_latency_and_healthz_both_have_to_be_held(p95_ms: float, healthz_p99_ms: float, held: bool) -> None:
    found = verdict([(seen(200, 500), seen(p95_ms, healthz_p99_ms))] * 3)
    assert (found["held"], found["p95_may_be_ms"]) == (held, 220)


@pytest.mark.parametrize(("peace", "beside", "held"), [(1.0, 0.9, True), (1.0, 0.89, False), (0.5, 0.45, True)])
def test_results_that_do_not_come_are_no_quick_ones(peace: float, beside: float, held: bool) -> None:
    assert verdict([(seen(200, 5, peace), seen(200, 5, beside))] * 3)["held"] == held


def test_it_is_the_middle_of_all_turns_that_counts() -> None:
    turns = [(seen(200, 5), seen(beside, 5)) for beside in (205, 210, 900)]
    assert verdict(turns)["beside_it"]["p95_ms"] == 210
    assert verdict(turns)["held"]
