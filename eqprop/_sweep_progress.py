"""What a sweep shows while it goes, on standard error: points done, failed and running, and the time left.

Where standard error is no terminal (a batch job's log) there is no bar, but a line every ten minutes.
"""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_EVERY_SECONDS, _LINE_SECONDS = 0.2, 600.0


class SweepProgress:
    """The line of a sweep.

    Args:
        shown: False prints nothing at all.
        total: points of the sweep.
        done, failed: of these, recorded before.
    """

    def __init__(self, shown: bool, total: int, done: int, failed: int) -> None:
        self.total, self.done, self.failed = total, done, failed
        self._first, self._begin = done + failed, time.monotonic()
        self._looked, self._line, self._shown = 0.0, self._begin, shown
        self._bar = tqdm(
            total=total,
            initial=self._first,
            disable=None if shown else True,  # None: no bar where standard error is not a terminal
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}",
        )

    def text(self, running: int, now: float) -> str:
        """Numbers of points, and the time left by the pace so far."""
        new, left = self.done + self.failed - self._first, self.total - self.done - self.failed
        time_left = tqdm.format_interval((now - self._begin) * left / new) if new else "?"
        return f"{self.done} done, {self.failed} failed, {running} running, {time_left} left"

    def show(self, running: int) -> None:
        """Renew the line, if it is time."""
        now = time.monotonic()
        if self._bar.disable:
            if self._shown and now - self._line >= _LINE_SECONDS:
                self._line = now
                tqdm.write(f"{self.total} points: {self.text(running, now)}", file=sys.stderr)
            return
        if now - self._looked >= _EVERY_SECONDS:
            self._looked = now
            self._bar.set_postfix_str(self.text(running, now), False)
            self._bar.update(self.done + self.failed - self._bar.n)
            self._bar.refresh()

    def say(self, text: str) -> None:
        """A line of its own, above."""
        if self._shown:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the last state where it is."""
        self._looked = 0.0
        self.show(0)
        self._bar.close()
