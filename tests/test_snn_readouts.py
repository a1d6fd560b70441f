"""Readouts and features: closed forms, streams, the conventions of scikit-learn, and data that are wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from eqprop._errors import ConfigError, DataError, TrainingError
from snn import (
    ExponentialFilter,
    Feature,
    MembraneVoltage,
    RandomReluFeatures,
    Readout,
    RidgeReadout,
    SoftmaxReadout,
    SpikeCounts,
    TimeBins,
)

Data = tuple[Tensor, Tensor]


def clouds(n: int, *, seed: int = 0, spread: float = 1.0, classes: int = 3, features: int = 6) -> Data:
    """Samples about a mean a class, in double precision; features of very different scales and offsets."""
    generator = torch.Generator().manual_seed(seed)
    means = 2.0 * torch.randn(classes, features, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    labels = torch.arange(n) % classes
    x = means[labels] + spread * torch.randn(n, features, generator=generator, dtype=torch.float64)
    return x * 10.0 ** torch.arange(features).sub(2) + 50.0, labels


READOUTS: dict[str, Readout] = {
    "ridge": RidgeReadout(),
    "softmax": SoftmaxReadout(),
    "adam": SoftmaxReadout("adam", learning_rate=0.05, max_epochs=30),
}


# ---- ridge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1e-6, 0.1, 10.0])
def test_ridge_is_the_least_squares_solution_of_the_padded_problem(penalty: float) -> None:
    x, y = clouds(90)
    readout = RidgeReadout(penalties=(penalty,)).fit(x, y)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    hot = torch.nn.functional.one_hot(y).double()
    # rows sqrt(n penalty) I below Z turn the penalty into ordinary least squares
    padded = torch.cat((z, math.sqrt(len(z) * penalty) * torch.eye(6, dtype=torch.float64)))
    wanted = torch.cat((hot - hot.mean(0), torch.zeros(6, 3, dtype=torch.float64)))
    w = torch.linalg.lstsq(padded, wanted).solution
    assert torch.allclose(readout.decision_function(x), z @ w + hot.mean(0), atol=1e-9)


@pytest.mark.parametrize("batch", [1, 7, 90])
def test_ridge_of_batches_is_ridge_of_the_whole(batch: int) -> None:
    (x, y), held = clouds(90), clouds(30, seed=1)
    whole = RidgeReadout().fit(x, y, held)
    streamed = RidgeReadout().fit_batches(
        zip(x.split(batch), y.split(batch), strict=True),
        zip(held[0].split(4), held[1].split(4), strict=True),
        classes=3,
    )
    assert streamed.penalty_ == whole.penalty_
    assert streamed.validation_scores_ == pytest.approx(whole.validation_scores_)
    assert torch.allclose(streamed.decision_function(x), whole.decision_function(x), atol=1e-9)


def test_the_penalty_is_the_best_on_validation_data_and_the_larger_of_equals() -> None:
    (x, y), held = clouds(24, spread=4.0), clouds(300, seed=1, spread=4.0)
    penalties = (1e-6, 1e-2, 1.0, 1e3)
    scores = {p: RidgeReadout((p,)).fit(x, y).score(*held) for p in penalties}
    chosen = RidgeReadout(penalties, refit=False).fit(x, y, held)
    assert chosen.validation_scores_ == pytest.approx(scores)
    assert chosen.penalty_ == max(p for p in penalties if scores[p] == max(scores.values()))
    assert torch.allclose(chosen.coef_, RidgeReadout((chosen.penalty_,)).fit(x, y).coef_)
    both = RidgeReadout((chosen.penalty_,)).fit(torch.cat((x, held[0])), torch.cat((y, held[1])))
    assert torch.allclose(RidgeReadout(penalties).fit(x, y, held).coef_, both.coef_, rtol=1e-6)
    easy = RidgeReadout((1e-5, 1e-3, 1e-4)).fit(*clouds(30, spread=0.1), clouds(30, seed=1, spread=0.1))
    assert set(easy.validation_scores_.values()) == {1.0} and easy.penalty_ == 1e-3


def test_fitting_leaves_the_features_alone() -> None:
    x, y = clouds(30)
    before = x.clone()
    RidgeReadout().fit(x, y)
    SoftmaxReadout(max_epochs=2).fit(x, y)
    assert torch.equal(x, before)


def test_neurons_that_never_vary_get_no_weight() -> None:
    x, y = clouds(60)
    x[:, 2] = 0.1
    for readout in (RidgeReadout(), SoftmaxReadout()):
        readout.fit(x, y)
        assert readout.constant_.tolist() == [False, False, True, False, False, False]
        assert not readout.coef_[:, 2].any()
        changed = x.clone()
        changed[:, 2] = 1e9
        assert torch.equal(readout.predict(changed), readout.predict(x))


# ---- softmax -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_softmax_regression_reaches_the_minimum_that_scipy_finds(soft: bool) -> None:
    (x, y), penalty = clouds(120, spread=0.5), 0.3
    readout = SoftmaxReadout(penalty=penalty, soft_targets=soft, patience=60, max_epochs=60)
    # validated on what it is fitted to, the last epoch need not be the best: compare the loss, not the parameters
    z = (x - x.mean(0)) / x.std(0, correction=0)
    hot = torch.nn.functional.one_hot(y).double()
    targets = torch.softmax(2 * hot - 1, 1) if soft else hot

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.tensor(flat.reshape(3, 7), requires_grad=True)
        logs = torch.log_softmax(z @ w[:, :6].T + w[:, 6], 1)
        value = -(targets * logs).sum(1).mean() + penalty / 2 * w[:, :6].square().sum()
        (gradient,) = torch.autograd.grad(value, w)
        return float(value.detach()), gradient.numpy().ravel()

    best = minimize(loss, np.zeros(21), jac=True, method="BFGS", options={"gtol": 1e-9}).fun
    readout.fit(x, y, (x, y))
    w = torch.cat((readout.coef_ * x.std(0, correction=0), torch.zeros(3, 1)), 1)
    w[:, 6] = readout.intercept_ + readout.coef_ @ x.mean(0)
    reached, at_zero = loss(w.numpy().ravel())[0], loss(np.zeros(21))[0]
    assert best - 1e-12 <= reached < best + 0.02 * (at_zero - best)


def test_the_epoch_that_is_kept_is_the_best_on_validation_data() -> None:
    (x, y), held = clouds(30, spread=6.0, features=20), clouds(200, seed=1, spread=6.0, features=20)
    readout = SoftmaxReadout(penalty=0.0, max_epochs=40, patience=5).fit(x, y, held)
    assert readout.epochs_ == readout.best_epoch_ + 5 < 40  # it overfits: the best epoch is an early one
    assert readout.score(*held) == pytest.approx(readout.validation_score_)
    shorter = SoftmaxReadout(penalty=0.0, max_epochs=readout.best_epoch_).fit(x, y, held)
    assert torch.allclose(shorter.coef_, readout.coef_)
    for epochs in range(1, readout.epochs_ + 1):
        other = SoftmaxReadout(penalty=0.0, max_epochs=epochs, patience=99).fit(x, y, held)
        assert other.validation_score_ <= readout.validation_score_


def test_probabilities_add_up_and_order_as_the_scores() -> None:
    x, y = clouds(60)
    readout = SoftmaxReadout().fit(x, y)
    p = readout.predict_proba(x)
    assert torch.allclose(p.sum(1), torch.ones(60, dtype=p.dtype)) and torch.equal(p.argmax(1), readout.predict(x))


def test_the_published_readout_of_nalsm_sees_shares_of_the_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    profiles = torch.rand(3, 40, generator=generator)
    labels = torch.arange(150) % 3
    counts = torch.poisson(20 * profiles[labels], generator=generator)
    readout = SoftmaxReadout.nalsm(max_epochs=150).fit(counts[:100], labels[:100], (counts[100:], labels[100:]))
    assert readout.score(counts[100:], labels[100:]) > 0.9
    assert torch.equal(readout.predict(counts * 7), readout.predict(counts))
    p = readout.get_params()
    assert (p["optimiser"], p["penalty"], p["soft_targets"], p["scale"]) == ("adadelta", 5e-10, True, "share")
    silent = torch.zeros(2, 40)
    assert torch.isfinite(readout.decision_function(silent)).all()


def test_a_loss_that_blows_up_is_named() -> None:
    x, y = clouds(60)
    with pytest.raises(TrainingError, match="SoftmaxReadout: got a loss of .* write a learning_rate below 1e"):
        SoftmaxReadout("adam", learning_rate=1e308, max_epochs=3).fit(x, y)


# ---- conventions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_separable_classes_are_learned_from_tensors_and_arrays_alike(readout: Readout, device: torch.device) -> None:
    x, y = clouds(90, spread=0.1)
    names = torch.tensor([7, -2, 40])[y]  # labels need not be 0, 1, 2
    fitted: Any = type(readout)(**readout.get_params())
    fitted.fit(x.to(device), names.to(device))
    assert fitted.score(x.to(device), names.to(device)) == 1.0
    assert fitted.classes_.tolist() == [-2, 7, 40] and fitted.n_features_in_ == 6
    assert fitted.predict(x.to(device)).device == x.to(device).device
    again: Any = type(readout)(**readout.get_params()).fit(x.numpy(), names.numpy())
    assert isinstance(again.predict(x.numpy()), np.ndarray) and again.score(x.numpy(), names.numpy()) == 1.0
    assert isinstance(again.decision_function(x.numpy()), np.ndarray)
    assert torch.equal(again.predict(x), torch.as_tensor(again.predict(x.numpy())))


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_settings_can_be_read_changed_and_cloned(readout: Readout) -> None:
    twin = type(readout)(**readout.get_params())
    assert twin.get_params() == readout.get_params() and repr(twin) == repr(readout)
    assert twin.set_params(validation_fraction=0.25, seed=4) is twin
    assert twin.get_params()["validation_fraction"] == 0.25 != readout.get_params()["validation_fraction"]
    with pytest.raises(ConfigError, match="parameter: got 'sed', needed one of .*did you mean 'seed'"):
        twin.set_params(sed=1)
    with pytest.raises(ConfigError, match="validation_fraction: got 2.0"):
        twin.set_params(validation_fraction=2.0)
    assert twin.get_params()["validation_fraction"] == 0.25


@pytest.mark.parametrize("readout", [RidgeReadout(), SoftmaxReadout()], ids=["ridge", "softmax"])
def test_scikit_learn_takes_a_readout_for_a_classifier(readout: Readout) -> None:
    pytest.importorskip("sklearn")
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = (values.numpy() for values in clouds(90))
    assert is_classifier(readout) and not hasattr(readout, "n_features_in_")
    for scoring in (None, "accuracy"):
        scores = cross_val_score(readout, x, y, cv=3, scoring=scoring, error_score="raise")
        assert scores.shape == (3,) and scores.min() > 0.8
    chain = make_pipeline(StandardScaler(), clone(readout)).fit(x, y)
    assert chain.score(x, y) > 0.9 and chain.n_features_in_ == 6
    search = GridSearchCV(readout, {"validation_fraction": [0.1, 0.3]}, cv=2, error_score="raise").fit(x, y)
    assert search.best_estimator_.predict(x).shape == (90,) and hasattr(search.best_estimator_, "n_features_in_")


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_the_same_seed_gives_the_same_readout(readout: Readout) -> None:
    x, y = clouds(60, spread=3.0)
    made: list[Any] = [type(readout)(**(readout.get_params() | {"seed": seed})) for seed in (5, 5, 6)]
    first, second, third = (r.fit(x, y) for r in made)
    assert torch.equal(first.coef_, second.coef_)
    if not isinstance(readout, RidgeReadout):  # its draw may choose the same penalty and then the same refit
        assert not torch.equal(first.coef_, third.coef_)


def broken(x: Tensor, y: Tensor, how: str) -> tuple[Any, Any]:
    if how == "nan":
        x[3, 1] = math.nan
    if how == "inf":
        x[4, 2] = math.inf
    if how == "silent":
        x = torch.zeros_like(x)
    if how == "short":
        y = y[:-1]
    if how == "floats":
        y = y.double()
    if how == "strings":
        return x, np.array(["a", "b", "c"])[y]
    if how == "booleans":
        y = y > 0
    if how == "one":
        y = torch.zeros_like(y)
    if how == "flat":
        x = x[:, 0]
    if how == "list":
        return x.tolist(), y
    return x, y


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", "1 NaN or infinite values of 180, the first in sample 3, feature 1"),
        ("inf", "the first in sample 4, feature 2"),
        ("silent", "got 6 that are all constant .* is the liquid silent"),
        ("short", r"labels: got shape \[29\] for 30 samples"),
        ("floats", "labels: got torch.float64, needed whole numbers"),
        ("strings", "labels: got an array of <U1, needed whole numbers; write names, labels = numpy.unique"),
        ("booleans", r"labels: got torch.bool, needed whole numbers; write labels.long\(\)"),
        ("one", r"labels: got 1 classes \(\[0\]\), needed at least 2"),
        ("flat", r"features: got shape \[30\], needed a tensor or array \[samples, features\]"),
        ("list", "features: got list, needed a tensor or array"),
    ],
)
def test_data_that_cannot_be_fitted_are_named(readout: Readout, how: str, words: str) -> None:
    x, y = broken(*clouds(30), how)
    fresh: Any = type(readout)(**readout.get_params())
    with pytest.raises(DataError, match=words):
        fresh.fit(x, y)


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_data_that_do_not_match_the_fit_are_named(readout: Readout) -> None:
    x, y = clouds(30)
    fresh: Any = type(readout)(**readout.get_params())
    with pytest.raises(ConfigError, match="got no fit yet, needed one"):
        fresh.predict(x)
    fresh.fit(x, y)
    with pytest.raises(DataError, match="features: got 5 a sample, needed 6"):
        fresh.predict(x[:, :5])
    with pytest.raises(DataError, match=r"labels: got shape \[29\]"):
        fresh.score(x, y[:29])
    with pytest.raises(DataError, match="labels: got 3 at position 0, needed one of .0, 1, 2."):
        fresh.fit(x, y, (x, y + 3))


def test_batches_that_cannot_be_fitted_are_named() -> None:
    x, y = clouds(30)
    with pytest.raises(ConfigError, match="got none for 6 penalties, needed batches"):
        RidgeReadout().fit_batches([(x, y)])
    with pytest.raises(DataError, match="train: got no batches"):
        RidgeReadout((0.1,)).fit_batches(iter(()))
    with pytest.raises(DataError, match="validation: got no batches"):
        RidgeReadout().fit_batches([(x, y)], [])
    with pytest.raises(DataError, match="5 a sample in a later batch, needed 6"):
        RidgeReadout((0.1,)).fit_batches([(x, y), (x[:, :5], y)])
    wrong: Any
    for wrong in ({"penalties": ()}, {"penalties": (0.0,)}, {"validation_fraction": 0.0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: got"):
            RidgeReadout(**wrong)


# ---- features ------------------------------------------------------------------------------------------------------

FEATURES: dict[str, Feature] = {
    "counts": SpikeCounts(),
    "filter": ExponentialFilter(tau_seconds=0.01),
    "last": MembraneVoltage("last"),
    "mean": MembraneVoltage("mean"),
    "bins": TimeBins(4, 30),
}


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_features_of_chunks_are_those_of_the_whole_train(feature: Feature, chunk: int, device: torch.device) -> None:
    train = torch.rand(3, 30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    if not isinstance(feature, MembraneVoltage):
        train = train < 0.3
    pieces = feature.of_chunks(iter(train.split(chunk, dim=1)))
    assert torch.allclose(pieces, feature(train)) and pieces.device == train.device and pieces.dtype.is_floating_point


def test_features_of_a_train_that_was_worked_out_by_hand() -> None:
    train = torch.tensor([[[1, 0], [0, 0], [1, 1], [0, 1]]], dtype=torch.bool)
    assert SpikeCounts()(train).tolist() == [[2, 2]]
    assert TimeBins(2, 4)(train).tolist() == [[1, 0, 1, 2]]
    halves = ExponentialFilter(tau_seconds=1e-3 / math.log(2))(train)  # halves every millisecond
    assert torch.allclose(halves, torch.tensor([[1 / 8 + 1 / 2, 1 / 2 + 1]]))
    voltage = torch.tensor([[[1.0, 0.0], [3.0, -2.0]]])
    assert MembraneVoltage()(voltage).tolist() == [[3.0, -2.0]]
    assert MembraneVoltage("mean")(voltage).tolist() == [[2.0, -1.0]]


def test_trains_that_do_not_fit_a_feature_are_named() -> None:
    with pytest.raises(DataError, match=r"train: got shape \[4, 2\], needed a tensor \[batch, time, neurons\]"):
        SpikeCounts()(torch.zeros(4, 2))
    with pytest.raises(DataError, match="TimeBins: got a train of 5 steps, needed 4; write TimeBins.steps=5"):
        TimeBins(2, 4).value((torch.zeros(1, 2, 3), 5))
    with pytest.raises(DataError, match="a train of 3 steps, needed 4"):
        TimeBins(2, 4)(torch.zeros(1, 3, 1))
    with pytest.raises(DataError, match="a train of 6 steps or more, needed 4"):
        TimeBins(2, 4)(torch.zeros(1, 6, 1))
    with pytest.raises(DataError, match="voltages: got torch.bool"):
        MembraneVoltage()(torch.zeros(1, 3, 1, dtype=torch.bool))
    with pytest.raises(DataError, match="SpikeCounts: got no chunks"):
        SpikeCounts().of_chunks(iter(()))
    with pytest.raises(ConfigError, match="TimeBins.bins: got 5 for 4 steps"):
        TimeBins(5, 4)


# ---- controls ------------------------------------------------------------------------------------------------------


def test_random_features_solve_what_no_linear_readout_can() -> None:
    x = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    y = (x[:, 0] * x[:, 1] > 0).long()  # exclusive or, in a plane
    features = RandomReluFeatures(2, 200, mean=x[:300].mean(0), bias=0.3, seed=1)
    train, test = slice(0, 300), slice(300, 400)
    assert RidgeReadout().fit(x[train], y[train]).score(x[test], y[test]) < 0.7
    assert RidgeReadout().fit(features(x[train]), y[train]).score(features(x[test]), y[test]) > 0.93


def test_random_features_are_fixed_by_their_seed_and_centre_their_inputs(device: torch.device) -> None:
    x = torch.rand(20, 7, generator=torch.Generator().manual_seed(0))
    mean = x.mean(0)
    centred = RandomReluFeatures(7, 30, mean=mean)
    assert torch.allclose(centred(x), RandomReluFeatures(7, 30)(x - mean), atol=1e-5)
    assert torch.equal(centred(x), RandomReluFeatures(7, 30, mean=mean)(x))
    assert not torch.equal(centred(x), RandomReluFeatures(7, 30, mean=mean, seed=1)(x))
    assert centred(x.to(device)).device == x.to(device).device
    with pytest.raises(DataError, match="got 6 values a sample, needed 7"):
        centred(x[:, :6])
    with pytest.raises(DataError, match=r"mean: got shape \[3\], needed \[7\]"):
        RandomReluFeatures(7, 30, mean=torch.zeros(3))
