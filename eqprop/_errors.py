"""Every error this package raises on purpose, under one base class."""

from __future__ import annotations


class EqPropError(Exception):
    """Base of all errors raised on purpose; its text says what was got, what was needed and what to write."""


class ConfigError(EqPropError, ValueError):
    """A setting, name, shape or combination that cannot work."""


class DataError(EqPropError, ValueError):
    """Data that are missing, damaged, of the wrong shape or out of range."""


class ConvergenceError(EqPropError, RuntimeError):
    """A relaxation that did not reach its tolerance; names the samples, their residual and the remedy."""


class TrainingError(EqPropError, RuntimeError):
    """A training run that cannot succeed any more (NaN, saturation, dead layers, accuracy stuck at chance)."""


class RunFolderError(EqPropError, RuntimeError):
    """A run folder that holds something else, is damaged, or cannot be written."""
