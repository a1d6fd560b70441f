"""How proposed changes of weights become pulses, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._auxiliary import _PARTS as _AUXILIARY_PARTS
from hardware._auxiliary import Auxiliary
from hardware._device_checks import require_number, require_whole
from hardware._json import from_spec, to_spec
from hardware._printed import Printed

_MODES = {"programmed": None, "proportional": None, "stochastic": None, "sign": None}


@dataclass(frozen=True, repr=False)
class WriteSettings(Printed):
    """How a proposed change of a weight becomes pulses.

    The change first meets what a learning circuit does to it, ``d <- d (1 + gain_std n_1) + bias_std n_2`` with normal
    numbers of the cell drawn once a chip: a deterministic bias of every update is the dominant fault of real
    self-learning circuits, and makes limit cycles. Changes up to ``dead_zone`` are dropped.

    Then, with ``n = |d| / step`` and the device's mean step at weight zero (twice that of one cell, where pulses go
    both ways: one cell of a pair goes up while the other goes down):

        programmed     no pulses: a closed-loop write to the new target, at the next relaxation
        proportional   round(n) pulses: nothing below half a step
        stochastic     floor(n + U(0, 1)) pulses: right on average
        sign           one pulse, whatever the size

    What the pulses do is the device's business: bounds, asymmetry, noise, stuck cells.

    Attributes:
        mode: as above.
        dead_zone: in units of weight.
        gain_std: relative.
        bias_std: in units of weight, a step of the optimiser.
        max_pulses: at most so many a cell and step; what a change asks for beyond that is lost. ``Chip.counts`` says
            how many changes were cut, and a warning where they are more than half of those that a step pulses.
        refresh_share: of the range; where pulses go one way, a pair with a cell beyond it is reset and its difference
            is programmed again.
        pulse_joules: energy of one pulse, for ``WritePath.energy_joules``; mode ``programmed`` has none.
        write_joules: energy of one closed-loop write of a cell: those of mode ``programmed``, and of pairs that are
            written anew where pulses go one way.
        auxiliary: a second array that gathers the changes first, see ``Auxiliary``; None for none.

    Source: bias: Dillavou et al. 2025 (arXiv 2505.22887); stochastic counts: Gokmen & Vlasov 2016; fixed pulses: Oh,
    An & Min (twin circuits).
    """

    mode: str = "stochastic"
    dead_zone: float = 0.0
    gain_std: float = 0.0
    bias_std: float = 0.0
    max_pulses: int = 31
    refresh_share: float = 0.9
    pulse_joules: float = 0.0
    write_joules: float = 0.0
    auxiliary: Auxiliary | None = None

    def __post_init__(self) -> None:
        lookup("write path: mode", self.mode, _MODES)
        for name in ("dead_zone", "gain_std", "bias_std", "pulse_joules", "write_joules"):
            require_number(f"WriteSettings.{name}", getattr(self, name), least=0.0)
        require_number("WriteSettings.refresh_share", self.refresh_share, above=0.0, most=1.0)
        require_whole("WriteSettings.max_pulses", self.max_pulses, 1)
        if self.auxiliary is not None and not isinstance(self.auxiliary, Auxiliary):
            raise ConfigError(
                f"WriteSettings.auxiliary: got {self.auxiliary!r}, needed hardware.Auxiliary(...), or None"
            )
        if self.auxiliary is not None and self.mode == "programmed":
            raise ConfigError(
                "WriteSettings: got an auxiliary array in mode 'programmed', needed a mode of pulses; write "
                "mode='stochastic'"
            )

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description."""
        described: dict[str, Any] = to_spec(self)
        return described

    @staticmethod
    def from_spec(spec: dict[str, Any]) -> WriteSettings:
        """The settings that ``spec`` described.

        Raises:
            ConfigError: an unknown field, or values that are refused.
        """
        return from_spec(spec, WriteSettings, _AUXILIARY_PARTS | {"WriteSettings": WriteSettings})
