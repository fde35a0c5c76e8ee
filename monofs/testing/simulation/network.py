"""The network of the simulated world: it loses, doubles, delays and reorders what members send each other, and can be cut one way.

Harsher than the product's links, which are TCP. What arrives at a member that is down is gone; at one that is paused, it waits in its
socket (``mailbox_max`` messages). Invariant: a message arrives unchanged or not at all. Clients' requests travel here, too; cuts between
members do not touch them, so that they meet leaders that are cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from monofs.testing.simulation.events import MS, SECOND, Events

Deliver = Callable[[Any], None]


@dataclass
class Weather:
    """How bad the network is. Shares are of messages, delays in nanoseconds; ``late``: share that comes up to ``late_ns`` later."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_ns: int = 2 * SECOND
    least_ns: int = MS // 5
    most_ns: int = 2 * MS


class Network:
    """Links between any two ends, named by numbers (members) or strings (clients)."""

    def __init__(self, events: Events, usual: Weather) -> None:
        self.events = events
        self.usual = self.weather = usual
        self.cuts: set[tuple[int, int]] = set()
        """(from, to) of members whose messages do not arrive."""
        self._dice = events.random("network")

    def send(self, source: Any, target: Any, message: Any, deliver: Deliver) -> None:
        """Carry ``message``; ``deliver(message)`` is called when it arrives, never, or twice."""
        dice, weather = self._dice, self.weather
        if (source, target) in self.cuts or dice.random() < weather.lost:
            return
        self.events.after(self._delay(), self._arrive, source, target, message, deliver)
        if weather.doubled and dice.random() < weather.doubled:
            self.events.after(self._delay(), self._arrive, source, target, message, deliver)

    def _delay(self) -> int:
        dice, weather = self._dice, self.weather
        delay = weather.least_ns + int(dice.random() * (weather.most_ns - weather.least_ns))
        if weather.late and dice.random() < weather.late:
            delay += int(dice.random() * weather.late_ns)
        return delay

    def _arrive(self, source: Any, target: Any, message: Any, deliver: Deliver) -> None:
        if (source, target) not in self.cuts:
            deliver(message)

    def cut(self, source: int, target: int) -> None:
        """Nothing passes from ``source`` to ``target``; what is on its way is lost, too, if this lasts until it would arrive."""
        self.cuts.add((source, target))

    def heal(self) -> None:
        """All links pass, all messages arrive soon."""
        self.cuts.clear()
        self.weather = Weather()
