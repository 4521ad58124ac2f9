"""How fast a run is, and how long it will take."""

from __future__ import annotations

from typing import NamedTuple

from ssl_jax.online.progress import spoken

DAY = 86_400.0
SURE = 5.0  # seconds of measured steps, below which nothing is foretold of days


class Pace(NamedTuple):
    """What was measured of this start of a run.

    Attributes:
      steps, seconds: of training, without the first step, which compiles, and without measurements.
      measuring: seconds of the fastest measurement on validation data (the first one compiles); 0 before it.
    """

    steps: int = 0
    seconds: float = 0.0
    measuring: float = 0.0

    def measured(self, seconds: float) -> Pace:
        return self._replace(measuring=min(self.measuring or seconds, seconds))

    def trained(self, steps: int, seconds: float) -> Pace:
        return self._replace(steps=self.steps + steps, seconds=self.seconds + seconds)

    def left(self, step: int, total_steps: int, eval_every: int = 0) -> float | None:
        """Seconds from ``step`` to the end of the run, measurements on the way included; None if nothing is known."""
        if not self.steps:
            return None
        measurements = -(-total_steps // eval_every) - step // eval_every if eval_every > 0 else 0
        return (total_steps - step) * self.seconds / self.steps + measurements * self.measuring


def too_slow(
    pace: Pace, total_steps: int, batch_size: int, *, network: str, unit: str = "images", cpu: bool
) -> str | None:
    """A line on what to do where a run would take more than a day; None where it would not, or none can say yet.

    Args:
      network: ``model.name``.
      unit: what examples are called.
      cpu: the run is on one.
    """
    if pace.seconds < SURE or pace.steps * DAY >= total_steps * pace.seconds:
        return None
    ways = ["fewer train.epochs", "a smaller network"]
    if unit == "images":
        ways.append("a smaller data.image_size")
        if cpu and network != "convnet":
            ways[1] = "a network for CPUs (model.name=convnet, as in configs/simclr_folder_cpu.py)"
    ways.append("an accelerator" if cpu else "more devices")
    rate = pace.steps * batch_size / pace.seconds
    return (
        f"at this rate, {rate:.3g} {unit}/s, the run takes {spoken(total_steps * pace.seconds / pace.steps)}; "
        f"faster: {', '.join(ways)}"
    )
