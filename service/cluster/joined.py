"""What all replicas measure, at one address: the same series, each with the replica that it is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


class JoinedMetrics:
    """``scraped``: the text of each replica's metrics, by its name."""

    def __init__(self, scraped: Mapping[str, str]) -> None:
        self._scraped = scraped

    def collect(self) -> Iterable[Metric]:
        """As one registry: each family once."""
        families: dict[str, Metric] = {}
        for replica, text in sorted(self._scraped.items()):
            for family in text_string_to_metric_families(text):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
        return families.values()
