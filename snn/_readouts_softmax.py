"""Softmax regression, with early stopping on validation data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import TrainingError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from snn._readouts import (
    Array,
    Readout,
    checked_features,
    checked_labels,
    checked_samples,
    coded,
    held_out,
    require_varying,
)

_RATES = {"lbfgs": 1.0, "adam": 1e-3, "adadelta": 0.1}
_SCALES = ("standard", "share")
_STEPS_PER_EPOCH = 5  # inner steps of L-BFGS, after which validation data are looked at


class SoftmaxReadout(Readout):
    """Linear classifier by cross-entropy, ``-Σ_k q_k ln softmax(W z + b)_k + penalty/2 |W|^2``, all parameters from 0.

    The parameters kept are those of the epoch with the most right answers on validation data, with the lower loss among
    equals; training ends ``patience`` epochs after it.

    Args:
        optimiser: "lbfgs" (all samples at once, strong Wolfe line search, an epoch is five steps), "adam" or
            "adadelta".
        learning_rate: None for 1, 0.001 and 0.1 in that order.
        penalty: on the coefficients of scaled features, 0 or more.
        max_epochs: most epochs.
        patience: epochs without a better one that end the training.
        batch_size: of "adam" and "adadelta".
        scale: "standard" (``z = (x - mean) / std``) or "share" (``z = x / sum |x|`` of the sample, then divided by the
            largest such value of the training data).
        soft_targets: ``q = softmax(+1 for the label, -1 for the others)`` in place of a one-hot.
        validation_fraction: share of the training data set aside where no validation data are given.
        seed: of that share and of the order of batches.

    Attributes:
        best_epoch_, epochs_: the epoch whose parameters were kept, from 1, and how many were run.
        validation_score_: its share of right answers.
    """

    best_epoch_: int
    epochs_: int
    validation_score_: float

    def __init__(
        self,
        optimiser: str = "lbfgs",
        learning_rate: float | None = None,
        penalty: float = 1e-5,
        max_epochs: int = 100,
        patience: int = 10,
        batch_size: int = 250,
        scale: str = "standard",
        soft_targets: bool = False,
        validation_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        lookup("optimiser", optimiser, _RATES)
        lookup("scale", scale, dict.fromkeys(_SCALES))
        if learning_rate is not None:
            require_number("learning_rate", learning_rate, above=0.0)
        require_number("penalty", penalty, least=0.0)
        for name, value in (("max_epochs", max_epochs), ("patience", patience), ("batch_size", batch_size)):
            require_whole(name, value, 1)
        require_number("validation_fraction", validation_fraction, above=0.0, most=0.9)
        require_whole("seed", seed, 0)
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.penalty = penalty
        self.max_epochs = max_epochs
        self.patience = patience
        self.batch_size = batch_size
        self.scale = scale
        self.soft_targets = soft_targets
        self.validation_fraction = validation_fraction
        self.seed = seed

    @classmethod
    def nalsm(cls, *, max_epochs: int = 5000, patience: int = 5000, seed: int = 0) -> SoftmaxReadout:
        """The readout of NALSM (Ivanov & Michmizos 2021): soft targets, Adadelta at 0.1, penalty 5e-10, shares of
        counts.

        The published code divides the shares by their maximum over each batch, which makes a sample's score depend on
        the batch it is in; here it is the maximum of the training data. It runs 5,000 epochs.
        """
        return cls(
            optimiser="adadelta",
            penalty=5e-10,
            max_epochs=max_epochs,
            patience=patience,
            scale="share",
            soft_targets=True,
            seed=seed,
        )

    def fit(self, features: Array, labels: Array, validation: tuple[Array, Array] | None = None) -> SoftmaxReadout:
        """Fit to features ``[samples, features]`` and labels ``[samples]``.

        Args:
            features, labels: training data.
            validation: features and labels that stop the training; None sets a share of the training data aside.

        Raises:
            DataError: features that are not finite or all constant, labels that do not match them, one class only.
            TrainingError: a loss that is no number any more.
        """
        x, y, classes = checked_samples(features, labels)
        codes = coded(y, classes)
        if validation is None:
            aside = held_out(codes, self.validation_fraction, self.seed)
            held_x, held_codes = x[aside], codes[aside]
            x, codes = x[~aside], codes[~aside]
        else:
            held_x = checked_features(validation[0], "validation features")
            held_y = checked_labels(validation[1], len(held_x), "validation labels").to(x.device)
            held_codes = coded(held_y, classes, "validation labels")
        low, high = torch.aminmax(x, dim=0)
        constant = low == high
        require_varying(constant)
        mean, factor = self._scaling(x, constant)
        z, held_z = ((self._shared(part) - mean) * factor for part in (x, held_x))
        coef = z.new_zeros(len(classes), z.shape[1], requires_grad=True)
        intercept = z.new_zeros(len(classes), requires_grad=True)
        best = self._train(z, self._targets(codes, len(classes), z), (held_z, held_codes), coef, intercept)
        self.classes_, self.constant_ = classes, constant
        self._shared_input = self.scale == "share"
        self.coef_ = best[0] * factor
        self.intercept_ = best[1] - self.coef_ @ mean
        return self

    def predict_proba(self, features: Array) -> Any:
        """Probabilities ``[samples, classes]``; the errors are those of ``decision_function``."""
        p = torch.softmax(self._scores(features), 1)
        return p.cpu().numpy() if not isinstance(features, Tensor) else p

    def _scores(self, features: Array) -> Tensor:
        self._fitted()
        x = checked_features(features)
        return super()._scores(_shares(x) if self._shared_input else x)

    def _shared(self, x: Tensor) -> Tensor:
        return _shares(x) if self.scale == "share" else x

    def _scaling(self, x: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
        """What is taken from a feature, and what it is then multiplied by (0 for constant ones)."""
        if self.scale == "share":
            shared = _shares(x)
            return torch.zeros_like(shared[0]), (~constant).to(shared.dtype) / shared.max()
        std, mean = torch.std_mean(x, dim=0, correction=0)
        return mean, torch.where(constant, 0.0, 1.0 / std.clamp(min=torch.finfo(x.dtype).tiny))

    def _targets(self, codes: Tensor, count: int, like: Tensor) -> Tensor:
        hot = torch.nn.functional.one_hot(codes, count).to(like.dtype)
        return torch.softmax(2.0 * hot - 1.0, 1) if self.soft_targets else hot

    def _train(
        self, z: Tensor, targets: Tensor, held: tuple[Tensor, Tensor], coef: Tensor, intercept: Tensor
    ) -> tuple[Tensor, Tensor]:
        epochs = self._epochs(z, targets, coef, intercept)
        best, key, self.best_epoch_ = (coef, intercept), (-1.0, 0.0), 0
        for epoch in range(1, self.max_epochs + 1):
            next(epochs)
            self.epochs_ = epoch
            with torch.no_grad():
                scores = held[0] @ coef.T + intercept
                loss = float(torch.nn.functional.cross_entropy(scores, held[1]))
                if loss != loss:
                    raise TrainingError(
                        f"SoftmaxReadout: got a loss of {loss} in epoch {epoch}, needed a finite one; write a "
                        f"learning_rate below {self._rate():g}"
                    )
                reached = (float((scores.argmax(1) == held[1]).double().mean()), -loss)
                if reached > key:
                    key, self.best_epoch_ = reached, epoch
                    best = coef.detach().clone(), intercept.detach().clone()
            if epoch - self.best_epoch_ >= self.patience:
                break
        self.validation_score_ = key[0]
        return best

    def _rate(self) -> float:
        return _RATES[self.optimiser] if self.learning_rate is None else self.learning_rate

    def _epochs(self, z: Tensor, targets: Tensor, coef: Tensor, intercept: Tensor) -> Iterator[None]:
        """One epoch of training a call of ``next``."""

        def loss(rows: Tensor, wanted: Tensor) -> Tensor:
            cross = torch.nn.functional.cross_entropy(rows @ coef.T + intercept, wanted)
            return cross + 0.5 * self.penalty * coef.square().sum()

        if self.optimiser == "lbfgs":
            lbfgs = torch.optim.LBFGS(
                (coef, intercept), lr=self._rate(), max_iter=_STEPS_PER_EPOCH, line_search_fn="strong_wolfe"
            )

            def closure() -> Tensor:
                lbfgs.zero_grad()
                value = loss(z, targets)
                value.backward()
                return value

            while True:
                lbfgs.step(closure)
                yield

        optimiser: torch.optim.Optimizer
        if self.optimiser == "adam":
            optimiser = torch.optim.Adam((coef, intercept), lr=self._rate())
        else:  # with the constants of the framework that NALSM was trained with
            optimiser = torch.optim.Adadelta((coef, intercept), lr=self._rate(), rho=0.95, eps=1e-8)
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            for rows in torch.randperm(len(z), generator=generator).to(z.device).split(self.batch_size):
                optimiser.zero_grad()
                loss(z[rows], targets[rows]).backward()
                optimiser.step()
            yield


def _shares(x: Tensor) -> Tensor:
    """Each sample divided by the sum of its absolute values; a sample of zeros stays so."""
    total = x.abs().sum(1, keepdim=True)
    return x / torch.where(total > 0, total, torch.inf)
