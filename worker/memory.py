"""What is remembered of a feed, as a value that its frames' workers pass on through the server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from worker.detect.schedule import Schedule
from worker.detect.track import Tracks
from worker.emotion.steady import Reading

_FORMAT = 2

Readings = dict[int, Reading]
"""Track id -> its expression so far."""


@dataclass(slots=True, eq=False)
class Memory:
    """What is remembered of one feed from frame to frame; saved on the server with each frame.

    Of pictures it holds a thumbnail and no more. Its parts are values: replaced, never changed. The
    schedule is that of detection, which may be some frames ahead of the rest.
    """

    schedule: Schedule = field(default_factory=Schedule)
    tracks: Tracks = field(default_factory=Tracks)
    readings: Readings = field(default_factory=dict)
    classifier: str = ""
    """Digest of the model that gave the readings."""

    def state(self) -> bytes:
        """As compact JSON, for ``restore``."""
        content = {
            "v": _FORMAT,
            "tracks": self.tracks.packed(),
            "schedule": self.schedule.packed(),
            "readings": [[i, *reading.packed()] for i, reading in self.readings.items()],
            "classifier": self.classifier,
        }
        return json.dumps(content, separators=(",", ":")).encode()

    def follow(self, other: Memory) -> None:
        """Remember what the other one does, but for the schedule."""
        self.tracks, self.readings, self.classifier = (
            other.tracks,
            other.readings,
            other.classifier,
        )

    @classmethod
    def restore(cls, state: bytes | None) -> Memory:
        """The memory that gave ``state``; a new one for None.

        Raises:
            ValueError: it is no such state.
        """
        if state is None:
            return cls()
        try:
            content = json.loads(state)
            if content["v"] != _FORMAT:
                raise ValueError(f"its format is {content['v']}, not {_FORMAT}")
            schedule = Schedule.unpacked(content["schedule"])
            readings = {int(i): Reading.unpacked(rest) for i, *rest in content["readings"]}
            tracks = Tracks.unpacked(content["tracks"])
            return cls(schedule, tracks, readings, str(content["classifier"]))
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"the feed's saved state is corrupt: {error}") from None

    @classmethod
    def anew(cls, milliseconds: int) -> Memory:
        """A new one for a feed whose memory is lost, whose track ids no older one has had.

        A feed has begun fewer tracks than the server's clock, in ``milliseconds``, has counted.
        """
        return cls(tracks=Tracks(next_id=max(1, milliseconds)))
