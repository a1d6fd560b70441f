"""Ridge regression on one-hot targets, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._device_checks import require_number, require_numbers, require_whole
from snn._readouts import (
    Array,
    Readout,
    checked_features,
    checked_labels,
    checked_samples,
    coded,
    held_out,
    require_classes,
    require_varying,
)
from snn._readouts_normal import NormalEquations

_ROWS = 8192  # samples multiplied together: bounds what the double-precision copy takes
Batches = Iterable[tuple[Array, Array]]


class RidgeReadout(Readout):
    """Linear classifier by ridge regression of one-hot targets on standardised features.

    ``min_W (1/n) Σ |t - b - W z|^2 + penalty |W|^2`` with ``z = (x - mean) / std`` (Hoerl & Kennard 1970), solved by a
    Cholesky factorisation a penalty, in float64. The penalty is the one with the most right answers on validation data
    (the larger of equals), after which the readout is fitted to training and validation data together. The normal
    equations are summed over batches, so that memory does not grow with the samples.

    Args:
        penalties: positive, in units of the (unit) variance of a feature; with one alone nothing is validated.
        validation_fraction: share of the training data that chooses the penalty where no validation data are given.
        refit: fit once more, to training and validation data, with the penalty that was chosen.
        seed: of the draw of that share.

    Attributes:
        penalty_: the one used.
        validation_scores_: right answers on the validation data, a penalty, before the refit; empty without a choice.
    """

    penalty_: float
    validation_scores_: dict[float, float]

    def __init__(
        self,
        penalties: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        validation_fraction: float = 0.1,
        refit: bool = True,
        seed: int = 0,
    ) -> None:
        for penalty in require_numbers("penalties", penalties):
            require_number("penalties", penalty, above=0.0)
        require_number("validation_fraction", validation_fraction, above=0.0, most=0.9)
        require_whole("seed", seed, 0)
        self.penalties = penalties
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.seed = seed

    def fit(self, features: Array, labels: Array, validation: tuple[Array, Array] | None = None) -> RidgeReadout:
        """Fit to features ``[samples, features]`` and labels ``[samples]``.

        Args:
            features, labels: training data.
            validation: features and labels that choose the penalty; None sets a share of the training data aside.

        Raises:
            DataError: features that are not finite or all constant, labels that do not match them, one class only.
        """
        x, y, classes = checked_samples(features, labels)
        if validation is None and len(self.penalties) > 1:
            aside = held_out(coded(y, classes), self.validation_fraction, self.seed)
            validation, x, y = (x[aside], y[aside]), x[~aside], y[~aside]
        train = zip(x.split(_ROWS), y.split(_ROWS), strict=True)
        return self.fit_batches(train, None if validation is None else [validation], classes=classes)

    def fit_batches(
        self, train: Batches, validation: Batches | None = None, *, classes: int | Sequence[int] | Tensor = 10
    ) -> RidgeReadout:
        """Fit to batches (features, labels), each looked at once; the errors are those of ``fit``.

        Args:
            train: training data.
            validation: data that choose the penalty; needed where there are several penalties.
            classes: the labels, or their number for 0 to n - 1.

        Raises:
            ConfigError: several penalties and no validation data.
        """
        penalties = sorted(float(p) for p in self.penalties)
        if validation is None and len(penalties) > 1:
            raise ConfigError(
                f"validation: got none for {len(penalties)} penalties, needed batches that choose one; write "
                "fit_batches(train, validation), or RidgeReadout(penalties=(0.01,))"
            )
        known = torch.arange(classes) if isinstance(classes, int) else torch.as_tensor(classes)
        known = require_classes(torch.unique(known))
        sums = NormalEquations()
        for x, codes in _checked(train, known):
            sums.add(x, _one_hot(codes, len(known)))
        if not sums.n:
            raise DataError("train: got no batches, needed at least one (a generator that was used up?)")
        require_varying(sums.constant)
        coef, intercept = sums.solve(penalties)
        best, self.validation_scores_ = 0, {}
        if validation is not None and len(penalties) > 1:
            held = NormalEquations(like=sums)
            right = torch.zeros(len(penalties), dtype=torch.float64, device=coef.device)
            for x, codes in _checked(validation, known):
                for i in range(len(penalties)):
                    scores = x.double() @ coef[i].T + intercept[i]
                    right[i] += (scores.argmax(1) == codes).sum()
                if self.refit:
                    held.add(x, _one_hot(codes, len(known)))
                else:
                    held.n += len(x)
            if not held.n:
                raise DataError("validation: got no batches, needed at least one (a generator that was used up?)")
            shares = (right / held.n).tolist()
            self.validation_scores_ = dict(zip(penalties, shares, strict=True))
            best = max(range(len(penalties)), key=lambda i: (shares[i], i))
            if self.refit:
                sums = sums + held
                coef, intercept = sums.solve([penalties[best]])
        at = 0 if len(coef) == 1 else best
        self.penalty_ = penalties[best]
        self.classes_, self.constant_ = known, sums.constant
        self.coef_, self.intercept_ = coef[at].clone(), intercept[at].clone()
        return self


def _checked(batches: Batches, classes: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    for features, labels in batches:
        x = checked_features(features)
        yield x, coded(checked_labels(labels, len(x)).to(x.device), classes)


def _one_hot(codes: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(codes, count)
