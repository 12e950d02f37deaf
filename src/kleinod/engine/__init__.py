"""The only owner of the device: queue, passes shared at step granularity, cancelling, events.

    submit -> waits, in turn by key -> encode -> pass, pass, … with others of its shape -> decode

One thread computes; requests and cancellations come from any thread, and what happens is told by
events. Knows nothing of HTTP, asyncio, databases and files.
"""

from kleinod.engine.engine import Engine
from kleinod.engine.engine_options import EngineOptions, EngineStats
from kleinod.engine.events import Cancelled, Event, Failed, Finished, Mailbox, Progress, Started
from kleinod.engine.jobs import Ticket

__all__ = [
    "Cancelled",
    "Engine",
    "EngineOptions",
    "EngineStats",
    "Event",
    "Failed",
    "Finished",
    "Mailbox",
    "Progress",
    "Started",
    "Ticket",
]
