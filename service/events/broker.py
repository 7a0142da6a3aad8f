"""A connection to an MQTT broker that is made anew whenever it is lost, after 1, 2, 4 … 60 s.

Over MQTT 3.1.1, which every broker speaks, with QoS 1: a message is taken once the broker says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiomqtt import Client, MqttCodeError, MqttError, Will
from prometheus_client import Gauge

from stmixer.service.errors import StartError
from stmixer.service.events.topics import OFFLINE
from stmixer.service.events.webhook import read_secret
from stmixer.service.settings import Settings

log = logging.getLogger("stmixer.mqtt")

ANSWER_S = 5.0
"""How long the broker may take to answer: a connection, a message."""
KEEP_ALIVE_S = 30
"""It says that we are gone when nothing of ours came for one and a half times that."""
UNDELAYED = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
"""Else a second message waits until the first one's segment is acknowledged."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
STEADY_S = 30.0
"""A connection that lasted so long was a good one: after it we begin with the first wait again."""
PORT, TLS_PORT = 1883, 8883
logging.getLogger("mqtt").setLevel(logging.CRITICAL)  # the client's; what it would say is said here
_REFUSED = ("Bad user name or password", "Not authorized", "Not authorised")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where it is, and how it lets us in. ``tls`` None: in plain text."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    user: str | None
    password: str | None = field(repr=False)


class BrokerGone(Exception):
    """A message was not taken. ``reached``: by a broker that was there; else there was no connection."""

    def __init__(self, why: str, *, reached: bool) -> None:
        super().__init__(why)
        self.reached = reached


@dataclass(eq=False, slots=True)
class _Connection:
    """``gone`` ends when it does; ``useless``: it is to be given up."""

    client: Client
    gone: asyncio.Future[None]
    useless: asyncio.Event = field(default_factory=asyncio.Event)


class Broker:
    """``identifier``: ours, and nobody else's at this broker. ``will_topic``: where it says that we are gone. ``up``: 1
    while there is a connection.
    """

    def __init__(self, address: BrokerAddress, identifier: str, will_topic: str, up: Gauge) -> None:
        self._address, self._identifier, self._will_topic, self._up = address, identifier, will_topic, up
        self._connection: _Connection | None = None
        self._why = "not connected yet"
        up.set(0)

    async def run(self, talk: Callable[[], Awaitable[None]]) -> None:
        """Until it is cancelled. ``talk``: what is to be done while there is a connection, from its beginning on."""
        tries = 0
        while True:
            began = time.monotonic()
            try:
                await self._once(talk)
                why = "it was lost"
            except (MqttError, BrokerGone) as error:
                why = in_words(error)
            except Exception as error:  # whatever it was, it is tried again
                log.exception("what was to be said to the MQTT broker was not")
                why = type(error).__name__
            if time.monotonic() - began >= STEADY_S:
                tries = 0
            if why != self._why:  # an outage is said once, not with every try
                log.warning("no connection to the MQTT broker: %s", why)
            self._why = why
            await asyncio.sleep(min(FIRST_WAIT_S * 2 ** min(tries, 20), LONGEST_WAIT_S))
            tries += 1

    async def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        """Until the broker has taken it. An empty ``payload`` takes away what it retains. Raises BrokerGone."""
        connection = self._connection
        if connection is None:
            raise BrokerGone(f"no connection: {self._why or 'it was lost'}", reached=False)
        client = connection.client
        sending = asyncio.ensure_future(client.publish(topic, payload, qos=1, retain=retain, timeout=ANSWER_S))
        try:
            await asyncio.wait({sending, connection.gone}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise BrokerGone("the connection to it was lost", reached=True)
            sending.result()
        except ValueError as error:  # it is too long for MQTT
            raise BrokerGone(str(error), reached=True) from None
        except MqttError as error:
            connection.useless.set()
            raise BrokerGone(in_words(error), reached=True) from None
        finally:
            sending.cancel()

    async def _once(self, talk: Callable[[], Awaitable[None]]) -> None:
        """As long as a connection lasts. Raises MqttError and BrokerGone, and what ``talk`` does."""
        address = self._address
        client = Client(
            address.host, address.port, username=address.user, password=address.password, identifier=self._identifier,
            tls_context=address.tls, will=Will(self._will_topic, OFFLINE, qos=1, retain=True), timeout=ANSWER_S,
            keepalive=KEEP_ALIVE_S, socket_options=UNDELAYED,
        )  # fmt: skip
        async with client:
            log.info("connected to the MQTT broker")
            self._why = ""
            connection = self._connection = _Connection(client, asyncio.ensure_future(_listen(client)))
            self._up.set(1)
            tasks: set[asyncio.Future[Any]] = {
                connection.gone, asyncio.ensure_future(talk()), asyncio.ensure_future(connection.useless.wait()),
            }  # fmt: skip
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._connection = None
                self._up.set(0)
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
            for error in ended:
                if isinstance(error, Exception):
                    raise error


async def _listen(client: Client) -> None:
    """We subscribe to nothing: until the connection is lost. Raises MqttError."""
    async for _ in client.messages:
        pass


def in_words(error: Exception) -> str:
    """Why, without what nobody need know."""
    said = str(error)
    if isinstance(error, MqttCodeError) and any(words in said for words in _REFUSED):
        return "it does not let us in: the user (--mqtt-user) or the password is wrong, or missing"
    if "Disconnected" in said:
        return "it was lost"
    if "timed out" in said:
        return f"no answer within {ANSWER_S:g} s"
    return said or type(error).__name__


def broker_address(settings: Settings) -> BrokerAddress:
    """As the settings name it, which have checked it. Raises StartError for files that cannot be used."""
    assert settings.mqtt is not None
    parts = urlsplit(settings.mqtt)
    over_tls = parts.scheme == "mqtts"
    tls = None
    if over_tls:
        try:
            tls = ssl.create_default_context(cafile=settings.mqtt_ca_file)
        except (OSError, ssl.SSLError) as error:
            why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "no certificates in PEM"
            raise StartError("bad_mqtt", f"--mqtt-ca-file {settings.mqtt_ca_file}: {why}") from None
    password = None if settings.mqtt_password is None else settings.mqtt_password.get_secret_value()
    if settings.mqtt_password_file is not None:
        secret = read_secret(settings.mqtt_password_file, "--mqtt-password-file")
        with contextlib.suppress(UnicodeDecodeError):
            password = secret.decode()
        if password is None:
            raise StartError("bad_secret", f"--mqtt-password-file {settings.mqtt_password_file}: it is no UTF-8")
    port = parts.port or (TLS_PORT if over_tls else PORT)
    return BrokerAddress(parts.hostname or "", port, tls, settings.mqtt_user, password)
