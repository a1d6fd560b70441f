"""Events of an event camera: the 5-byte files of N-MNIST, and frames of events."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from hardware._json import to_spec
from hardware._printed import Printed

BYTES = 5  # of an event
OVERFLOW_ROW = 240  # a y that marks an overflow of the camera's timer, not a pixel
OVERFLOW_MICROSECONDS = 1 << 13
NMNIST_SENSOR = (34, 34)
POLARITIES = ("both", "on", "off")


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """Events of one recording in the order of time, each array ``[events]``.

    Attributes:
        x, y: column and row, int64.
        polarity: 1 for ON (brighter), 0 for OFF, int64.
        microseconds: int64.
    """

    x: np.ndarray
    y: np.ndarray
    polarity: np.ndarray
    microseconds: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Events({len(self):,} in {self.microseconds[-1] / 1000 if len(self) else 0:.1f} ms)"


def read_events(path: str | os.PathLike[str], sensor: tuple[int, int] = NMNIST_SENSOR) -> Events:
    """One recording in N-MNIST's format.

    Five bytes an event, most significant first: x, y, then one bit of polarity (1 = ON) and 23 bits of time in
    microseconds. Some releases mark an overflow of the timer by y = 240: such an event is none, and all times from it
    on are 2^13 us later (Orchard et al. 2015 and the readers of its authors).

    Args:
        path: the file.
        sensor: height and width.

    Raises:
        DataError: a file that cannot be read, is empty or cut short, or has events off the sensor or times that run
            backwards; names the file, the byte and the number.
    """
    path = Path(path)
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not len(raw):
        raise DataError(f"{path}: got an empty file (0 bytes), needed at least one event of {BYTES} bytes; replace it")
    if over := len(raw) % BYTES:
        raise DataError(
            f"{path}: got {len(raw):,} bytes, of which the last {over} from byte {len(raw) - over} on are no whole "
            f"event, needed a multiple of {BYTES} (cut short?); replace it"
        )
    words = raw.reshape(-1, BYTES).astype(np.int64)
    x, y = words[:, 0], words[:, 1]
    polarity, time = words[:, 2] >> 7, (words[:, 2] & 0x7F) << 16 | words[:, 3] << 8 | words[:, 4]
    marks = y == OVERFLOW_ROW if sensor[0] <= OVERFLOW_ROW else np.zeros(len(y), dtype=bool)
    time = time + OVERFLOW_MICROSECONDS * np.cumsum(marks)

    numbers = np.flatnonzero(~marks)  # places in the file, for the errors
    if not len(numbers):
        raise DataError(f"{path}: got {len(raw) // BYTES} marks of a timer overflow and no event, needed events")
    x, y, polarity, time = x[numbers], y[numbers], polarity[numbers], time[numbers]
    return checked_events(
        Events(x, y, polarity, time),
        sensor,
        str(path),
        lambda at: f"event {numbers[at]} at byte {BYTES * numbers[at]}",
        "replace the file, or write its sensor",
    )


def checked_events(
    events: Events, sensor: tuple[int, int], source: str, place: Callable[[int], str], remedy: str
) -> Events:
    """The events of a recording themselves.

    Args:
        events: in the order of time.
        sensor: height and width.
        source: what they are from, for the errors.
        place: from the position of an event to the words for it.
        remedy: what to do about one.

    Raises:
        DataError: events off the sensor, a polarity other than 0 and 1, times below 0 or that run backwards.
    """
    x, y, polarity, time = events.x, events.y, events.polarity, events.microseconds
    off = (x < 0) | (x >= sensor[1]) | (y < 0) | (y >= sensor[0])
    if off.any():
        at = int(np.argmax(off))
        raise DataError(
            f"{source}: got x = {x[at]}, y = {y[at]} in {place(at)}, needed x from 0 to {sensor[1] - 1} and y from 0 "
            f"to {sensor[0] - 1}, the sensor; {remedy}"
        )
    other = (polarity != 0) & (polarity != 1)
    if other.any():
        at = int(np.argmax(other))
        raise DataError(f"{source}: got a polarity of {polarity[at]} in {place(at)}, needed 1 (ON) or 0 (OFF)")
    back = np.diff(time, prepend=0) < 0
    if back.any():
        at = int(np.argmax(back))
        raise DataError(
            f"{source}: got a time of {time[at]} us in {place(at)}, after {time[at - 1] if at else 0} us, needed times "
            f"that do not run backwards; {remedy}"
        )
    return events


@dataclass(frozen=True, repr=False, kw_only=True)
class EventFrames(Printed):
    """How events become frames ``[steps, channels]``, bool: 1 where a pixel had at least one event in a step.

    The defaults are those of NALSM (Ivanov & Michmizos 2021): 1-ms steps, times rounded to the nearest step, the first
    250 steps, both polarities, 2 x 34 x 34 = 2,312 channels (polarity, y, x, flattened; OFF first). Later events are
    left out.

    Attributes:
        steps, dt_seconds: number and length of the steps.
        rounding: "nearest" (NALSM; step 0 is half as long, halves go to the even step) or "floor".
        crop: height and width of a centred window, or None for the whole sensor.
        polarity: "both", "on" or "off".
        sensor: height and width.
    """

    steps: int = 250
    dt_seconds: float = 1e-3
    rounding: str = "nearest"
    crop: tuple[int, int] | None = None
    polarity: str = "both"
    sensor: tuple[int, int] = NMNIST_SENSOR

    def __post_init__(self) -> None:
        require_whole("EventFrames.steps", self.steps, 1)
        require_number("EventFrames.dt_seconds", self.dt_seconds, above=0.0)
        lookup("EventFrames.rounding", self.rounding, dict.fromkeys(("nearest", "floor")))
        lookup("EventFrames.polarity", self.polarity, dict.fromkeys(POLARITIES))
        if min(self.window) < 1 or any(w > s for w, s in zip(self.window, self.sensor, strict=True)):
            raise ConfigError(
                f"EventFrames.crop: got {self.window}, needed at least 1 x 1 and at most the sensor, {self.sensor}"
            )

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of what is kept."""
        return self.sensor if self.crop is None else self.crop

    @property
    def channels(self) -> int:
        """Channels of a frame."""
        return self.window[0] * self.window[1] * (2 if self.polarity == "both" else 1)

    def places(self, events: Events) -> tuple[np.ndarray, np.ndarray]:
        """Step and channel of each event that is kept, int64, in the order of time."""
        ticks = events.microseconds * 1e-6 / self.dt_seconds
        step = (np.rint(ticks) if self.rounding == "nearest" else np.floor(ticks + 1e-9)).astype(np.int64)
        height, width = self.window
        y = events.y - (self.sensor[0] - height) // 2
        x = events.x - (self.sensor[1] - width) // 2
        kept = (step < self.steps) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        channel = y * width + x
        if self.polarity == "both":
            channel = channel + events.polarity * (height * width)
        else:
            kept &= events.polarity == (self.polarity == "on")
        return step[kept], channel[kept]

    def frames(self, events: Events) -> np.ndarray:
        """The frames of one recording, ``[steps, channels]``."""
        return next(self.chunks([events], self.steps))[0]

    def chunks(self, recordings: list[Events], chunk_steps: int) -> Iterator[np.ndarray]:
        """The frames of several recordings, ``[batch, chunk_steps, channels]`` at a time, the last perhaps shorter."""
        require_whole("chunk_steps", chunk_steps, 1)
        kept = [self.places(events) for events in recordings]
        for start in range(0, self.steps, chunk_steps):
            stop = min(start + chunk_steps, self.steps)
            frames = np.zeros((len(recordings), stop - start, self.channels), dtype=bool)
            for row, (step, channel) in enumerate(kept):
                low, high = np.searchsorted(step, (start, stop))
                frames[row, step[low:high] - start, channel[low:high]] = True
            yield frames

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description for records; ``encoder_from_spec`` reads it."""
        described: dict[str, Any] = to_spec(self)
        return described
