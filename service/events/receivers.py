"""Who events are handed on to by the settings: the webhook, the MQTT broker; each has its own queue in one spool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from stmixer.service.event_schemas import Rule
from stmixer.service.events.delivery import Delivery, Receiver
from stmixer.service.events.ledger import Ledger
from stmixer.service.events.names import RuleOfStream
from stmixer.service.events.spool import ReceiverName
from stmixer.service.events.topics import Topics
from stmixer.service.events.webhook import Webhook, read_secret
from stmixer.service.metrics import Metrics
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.events")


class Receivers:
    """``names``: in whose queues events are to be. Raises StartError for files that cannot be used."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._deliveries: list[Delivery] = []
        self._show_broker: Callable[[Mapping[RuleOfStream, Rule]], None] = lambda rules: None
        self._secret: bytes | None = None
        if settings.webhook_secret_file is not None:
            advice = "; openssl rand -hex 32 makes one"
            self._secret = read_secret(settings.webhook_secret_file, "--webhook-secret-file", advice)
        self._address = None
        if settings.mqtt is not None:
            from stmixer.service.events.broker import broker_address  # who has no broker need not load its client

            self._address = broker_address(settings)
        names: list[tuple[ReceiverName, object]] = [("webhook", settings.webhook), ("mqtt", settings.mqtt)]
        self.names: tuple[ReceiverName, ...] = tuple(name for name, address in names if address is not None)

    async def start(self, ledger: Ledger) -> list[asyncio.Task[None]]:
        """Begin to deliver; those who do, to be cancelled before ``close``."""
        if self._settings.webhook is not None:
            self._deliver(Webhook(self._settings.webhook, self._secret), ledger)
        if self._address is not None:
            from stmixer.service.events.broker import Broker
            from stmixer.service.events.mqtt import Mqtt

            topics, identifier = Topics(self._settings.mqtt_topic), await ledger.do(ledger.store.retained.client_id)
            up = self._metrics.receiver_up.labels("mqtt")
            broker = Broker(self._address, identifier, topics.available, up)
            mqtt = Mqtt(broker, topics, self._settings.mqtt_discovery, ledger)
            mqtt.found = self._deliver(mqtt, ledger).found
            self._show_broker = mqtt.show
            await mqtt.start()
        return [asyncio.create_task(delivery.run()) for delivery in self._deliveries]

    def _deliver(self, receiver: Receiver, ledger: Ledger) -> Delivery:
        delivery = Delivery(receiver, ledger, self._metrics)
        self._deliveries.append(delivery)
        return delivery

    async def close(self) -> None:
        """Nothing more is handed on; what waits does so in the spool."""
        for delivery in self._deliveries:
            await delivery.receiver.close()

    def wake(self) -> None:
        """Something waits."""
        for delivery in self._deliveries:
            delivery.wake()

    def show(self, rules: Mapping[RuleOfStream, Rule]) -> None:
        """These are the rules of streams with names, now."""
        self._show_broker(rules)

    def gave_way(self, counts: Mapping[ReceiverName, int]) -> None:
        """So many messages to each never will be handed on: too many wait."""
        for name, count in counts.items():
            self._metrics.deliveries.labels(name, "dead").inc(count)
            log.error("%d events never reached the %s: too many wait", count, name)
