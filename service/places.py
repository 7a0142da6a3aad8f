"""What ``--device`` names: places for workers, each a device and perhaps processor cores of its own. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs. ``cores``: the processor cores that it keeps to; none named: all that the service has."""

    device: str
    cores: tuple[int, ...] = ()


def places_of(devices: str, cores: Sequence[int]) -> tuple[Place, ...]:
    """The places that a list with commas names, one for each device.

    Several of ``cpu`` share ``cores`` out among them, in runs of about the same length; with one alone, and beside
    devices of another kind, a worker on the CPU takes what there is.

    Raises:
        ValueError: a list that means nothing, in words.
    """
    names = [name.strip() for name in devices.split(",")]
    if len(names) == 1:
        return (Place(names[0]),)
    for name in names:
        if DEVICE.fullmatch(name) is None:
            raise ValueError(f"--device {devices}: {name!r} cannot stand in a list; name cpu, cuda or cuda:N")
        alike = {"cuda": "cuda:0"}
        named = [alike.get(other, other) for other in names]
        if name != "cpu" and named.count(alike.get(name, name)) > 1:
            raise ValueError(f"--device {devices}: {name} stands twice; one worker has a GPU to itself")
    many = names.count("cpu")
    if many > len(cores):
        raise ValueError(f"--device {devices}: {many} workers on the CPU, and {len(cores)} cores for them")
    shares = [tuple(cores[i * len(cores) // many : (i + 1) * len(cores) // many]) for i in range(many)]
    return tuple(Place(name, shares.pop(0) if name == "cpu" and many > 1 else ()) for name in names)
