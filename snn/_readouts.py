"""What linear readouts share: the conventions of scikit-learn, without the dependency."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from eqprop._data_splits import stratified
from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup

Array = Tensor | np.ndarray
R = TypeVar("R", bound="Readout")


class Readout(ABC):
    """A linear classifier of features ``[samples, features]``; the class with the largest score wins.

    Features and labels are torch tensors or numpy arrays, and so are predictions: of the kind, and on the device, of
    the features. ``get_params``, ``set_params``, ``fit``, ``predict`` and ``score`` behave as scikit-learn has them,
    and what is learned ends with an underscore: pipelines, cross-validation and grid searches of scikit-learn take a
    readout. Unlike there, labels are whole numbers, and scores are ``[samples, classes]`` for two classes too.

    Attributes:
        classes_: labels in the order of the scores, int64.
        coef_, intercept_: ``[classes, features]`` and ``[classes]``, for features as they are given.
        constant_: bool ``[features]``, those that did not vary in the training data; their coefficients are 0.
    """

    classes_: Tensor
    coef_: Tensor
    intercept_: Tensor
    constant_: Tensor
    _estimator_type = "classifier"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=None,
            regressor_tags=None,
            classifier_tags=ClassifierTags(),
        )

    @abstractmethod
    def fit(self, features: Array, labels: Array, validation: tuple[Array, Array] | None = None) -> Readout:
        """Learn from features ``[samples, features]`` and labels ``[samples]``; returns the readout itself."""

    @property
    def n_features_in_(self) -> int:
        """Features that it was fitted to. Raises AttributeError before a fit, which scikit-learn asks for."""
        return int(self.coef_.shape[1])

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings, by name."""
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }

    def set_params(self: R, **params: Any) -> R:
        """Change settings; what was learned stays until the next ``fit``. Raises ConfigError for unknown names."""
        known = self.get_params()
        for name in params:
            lookup(f"{type(self).__name__} parameter", name, known)
        checked = type(self)(**(known | params))
        for name in params:
            setattr(self, name, getattr(checked, name))
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        shown = [f"{n}={v!r}" for n, v in self.get_params().items() if v != defaults[n].default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def decision_function(self, features: Array) -> Any:
        """Scores ``[samples, classes]``.

        Raises:
            ConfigError: not fitted yet.
            DataError: features that are not finite, or another number of them than in the fit.
        """
        scores = self._scores(features)
        return scores.cpu().numpy() if isinstance(features, np.ndarray) else scores

    def predict(self, features: Array) -> Any:
        """Labels ``[samples]``; the errors are those of ``decision_function``."""
        best = self._scores(features).argmax(1)
        labels = self.classes_.to(best.device)[best]
        return labels.cpu().numpy() if isinstance(features, np.ndarray) else labels

    def score(self, features: Array, labels: Array) -> float:
        """Share of samples that are classified right. Raises DataError for labels that do not match the features."""
        x = checked_features(features)
        y = checked_labels(labels, len(x))
        right = torch.as_tensor(self.predict(x)).to(y.device) == y
        return float(right.double().mean())

    def _fitted(self) -> Tensor:
        if not hasattr(self, "coef_"):
            raise ConfigError(f"{type(self).__name__}: got no fit yet, needed one; write readout.fit(features, labels)")
        return self.coef_

    def _scores(self, features: Array) -> Tensor:
        coef = self._fitted()
        x = checked_features(features)
        if x.shape[1] != coef.shape[1]:
            raise DataError(f"features: got {x.shape[1]} a sample, needed {coef.shape[1]}, as in the fit")
        return x.to(coef.dtype) @ coef.T.to(x.device) + self.intercept_.to(x.device)


def checked_features(features: Any, name: str = "features") -> Tensor:
    """The features as a tensor ``[samples, features]``, floating point.

    Raises:
        DataError: no array of two dimensions with something in it, or values that are not finite.
    """
    if not isinstance(features, Tensor | np.ndarray) or features.ndim != 2:
        got = f"shape {list(features.shape)}" if isinstance(features, Tensor | np.ndarray) else type(features).__name__
        raise DataError(f"{name}: got {got}, needed a tensor or array [samples, features]")
    x = torch.as_tensor(features)
    if not x.numel():
        raise DataError(f"{name}: got shape {list(x.shape)}, needed at least one sample and one feature")
    if not x.dtype.is_floating_point:
        return x.to(torch.float32)
    # A sum is finite where all its terms are (and, rarely, not where they are): one cheap pass before the costly one.
    if not bool(x.sum(dtype=torch.float64).isfinite()):
        bad = ~x.isfinite()
        if bad.any():
            row, column = (int(v) for v in bad.nonzero()[0])
            raise DataError(
                f"{name}: got {int(bad.sum())} NaN or infinite values of {x.numel()}, the first in sample {row}, "
                f"feature {column}, needed finite ones; look at the liquid's voltages"
            )
    return x


def checked_labels(labels: Any, n: int, name: str = "labels") -> Tensor:
    """The labels as an int64 tensor ``[samples]``.

    Raises:
        DataError: another number of them than there are samples, or no whole numbers.
    """
    try:
        y = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:  # strings, objects, lists of several lengths
        got = f"an array of {labels.dtype}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(
            f"{name}: got {got}, needed whole numbers; write names, labels = numpy.unique(labels, return_inverse=True)"
        ) from error
    if y.dim() != 1 or len(y) != n:
        raise DataError(f"{name}: got shape {list(y.shape)} for {n} samples, needed [{n}], one label a sample")
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise DataError(f"{name}: got {y.dtype}, needed whole numbers; write labels.long()")
    return y.long()


def checked_samples(features: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Features ``[samples, features]``, labels ``[samples]`` beside them, and the classes among them, sorted.

    Raises:
        DataError: features or labels that are refused, one class only.
    """
    x = checked_features(features)
    y = checked_labels(labels, len(x)).to(x.device)
    return x, y, require_classes(torch.unique(y))


def coded(labels: Tensor, classes: Tensor, name: str = "labels") -> Tensor:
    """Positions of labels among the (sorted) classes. Raises DataError for a label that is none of them."""
    classes = classes.to(labels.device)
    at = torch.searchsorted(classes, labels).clamp_(max=len(classes) - 1)
    wrong = classes[at] != labels
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise DataError(f"{name}: got {int(labels[first])} at position {first}, needed one of {classes.tolist()}")
    return at


def require_classes(classes: Tensor) -> Tensor:
    """The classes. Raises DataError for fewer than two."""
    if len(classes) < 2:
        raise DataError(f"labels: got {len(classes)} classes ({classes.tolist()}), needed at least 2")
    return classes


def require_varying(constant: Tensor) -> None:
    """Raises DataError where all features are constant."""
    if bool(constant.all()):
        raise DataError(
            f"features: got {len(constant)} that are all constant over the training samples, needed at least one that "
            "varies; is the liquid silent or saturated?"
        )


def held_out(codes: Tensor, fraction: float, seed: int) -> Tensor:
    """Mask of the samples set aside for validation, each class in its share, on the device of the labels."""
    count = max(1, round(fraction * len(codes)))
    if count >= len(codes):
        raise DataError(f"features: got {len(codes)} samples, needed at least 2, to set one aside for validation")
    mask = stratified(codes.cpu().numpy(), count, torch.Generator().manual_seed(seed))
    return torch.from_numpy(mask).to(codes.device)
