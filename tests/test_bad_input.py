"""Data and parameters that cannot be used: refused before any long work, in a message that names them."""

import warnings

import numpy as np
import pandas as pd
import pytest

import identica
from conftest import make_rows
from identica import (
    GCL,
    IVAE,
    PCL,
    TCL,
    VAE,
    AdversarialICA,
    Autoencoder,
    DataError,
    FlowICA,
    LinearICA,
    MarginalMLE,
    VariationalEM,
)
from identica.errors import DataWarning
from identica.estimators import base
from identica.linear.whitening import Whitening

ROWS = make_rows()
X, U = ROWS.X, ROWS.u
N = len(X)

FLOW = lambda **kw: FlowICA(**{"max_iter": 20, "n_restarts": 2, "random_state": 0, **kw})
LINEAR = lambda **kw: LinearICA(**{"method": "joint-diagonalization", "random_state": 0, **kw})
SHORT = {"max_iter": 20, "n_restarts": 1, "hidden_sizes": (), "random_state": 0}
ESTIMATORS = {
    "flow": FLOW,
    "linear": LINEAR,
    "ivae": lambda **kw: IVAE(**{**SHORT, **kw}),
    "vae": lambda **kw: VAE(**{**SHORT, **kw}),
    "tcl": lambda **kw: TCL(**{**SHORT, **kw}),
    "pcl": lambda **kw: PCL(**{**SHORT, **kw}),
    "gcl": lambda **kw: GCL(**{**SHORT, **kw}),
    "marginal-mle": lambda **kw: MarginalMLE(**{**SHORT, **kw}),
    "variational-em": lambda **kw: VariationalEM(**{**SHORT, **kw}),
    "autoencoder": lambda **kw: Autoencoder(**{**SHORT, **kw}),
    "adversarial": lambda **kw: AdversarialICA(**{**SHORT, **kw}),
}

# Those that leave spikes out by the same code as the others.
RELATED = {"vae", "tcl", "pcl", "gcl", "marginal-mle", "variational-em", "autoencoder", "adversarial"}


@pytest.fixture
def no_training(monkeypatch):
    """Long work is an error of its own."""

    def refuse(*args, **kwargs):
        raise AssertionError("training began before the input was checked")

    monkeypatch.setattr(base, "run_stages", refuse)
    monkeypatch.setattr(LinearICA, "_diagonalize", refuse)


def changed(row, column, value):
    other = X.copy()
    other[row, column] = value
    return other


def with_column(values):
    return np.column_stack([X, values])


DATA = {
    "nan": (changed(5, 1, np.nan), U, "contains NaN"),
    "inf": (changed(5, 1, np.inf), U, "infinity"),
    "constant column": (
        with_column(np.full(N, 7.5)),
        U,
        r"X has 1 constant column\(s\): 2 \(value 7.5\).*drop it",
    ),
    "constant column by name": (
        pd.DataFrame(with_column(np.zeros(N)), columns=["a", "b", "flat"]),
        U,
        r"constant column\(s\): 'flat'",
    ),
    "fewer rows than columns": (X[:4].reshape(2, 4), U[:2], r"fewer rows \(2\) than columns \(4\)"),
    "one row": (X[:1], U[:1], "minimum of 2 is required"),
    "no rows": (X[:0], U[:0], r"0 sample\(s\)"),
    "one dimension": (X[:, 0], U, "Expected 2D array"),
    "text": (np.full((N, 2), "a"), U, "could not convert string"),
    "complex": (X + 1j, U, "Complex data not supported"),
    "a segment of one row": (
        X,
        np.where(np.arange(N) == 3, 9, U),
        r"1 of 4 segments of u have fewer.*: '9'.*merge",
    ),
    "u is an index": (X, np.arange(N), r"180 of 180 segments.*u seems to be an index: cut it into windows"),
    "one segment": (X, np.full(N, "rest"), r"u has one value only \('rest'\)"),
    "u of another length": (X, U[:-1], "u column 'u' has 179 rows but X has 180"),
    "u with a missing value": (X, np.where(np.arange(N) == 4, np.nan, U), r"in 1 row\(s\), first in row 4"),
    "u of three dimensions": (X, np.zeros((N, 2, 2)), "u must have shape"),
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_data_that_cannot_be_used_are_named(no_training, name, kind):
    data, u, message = DATA[kind]
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[name]().fit(data, u=u)


def test_errors_about_data_are_of_the_packages_own_class(no_training):
    for kind in ("constant column", "fewer rows than columns", "one segment", "u of another length"):
        data, u, _ = DATA[kind]
        with pytest.raises(DataError) as caught:
            FLOW().fit(data, u=u)
        assert isinstance(caught.value, identica.IdenticaError)
        assert isinstance(caught.value, ValueError)


def test_a_sequence_of_another_length_is_refused(no_training):
    with pytest.raises(DataError, match=r"sequence has shape \(3,\) but X has 180 rows"):
        FLOW().fit(X, u=U, sequence=[1, 2, 3])


def test_a_column_that_varies_in_held_out_rows_only_is_named(no_training):
    for seed in range(20):
        rare = np.zeros(N)
        rare[5] = 1
        ica = LINEAR(random_state=seed, validation_fraction=0.5)
        try:
            ica.fit(with_column(rare), u=U)
        except DataError as error:
            assert "constant column(s) among the fitted rows: 2" in str(error)  # noqa: PT017
            return
        except AssertionError:
            assert 5 in ica.fit_rows_
    pytest.fail("no seed held out row 5")


PARAMETERS = {
    "n_components": [
        (0, "between 1 and 2"),
        (3, "n_components=3, but X has 2 column"),
        ("two", "n_components must be"),
        (1.5, "n_components must be"),
        (True, "n_components must be"),
    ],
    "max_iter": [
        (0, "max_iter must be a whole number of at least 1, got 0"),
        (2.5, "max_iter"),
        ("many", "max_iter"),
    ],
    "validation_fraction": [
        (1.0, r"validation_fraction must be a number in \[0, 1\), got 1.0"),
        (-0.1, "validation_fraction"),
        ("half", "validation_fraction"),
        (float("nan"), "validation_fraction"),
    ],
    "precision": [("float16", "precision must be 'float32' or 'float64', got 'float16'"), (32, "precision")],
    "random_state": [
        ("seed", "random_state must be an int, None or a RandomState, got 'seed'"),
        (1.5, "random_state"),
    ],
    "outlier_threshold": [
        (0, "outlier_threshold must be a positive number or None, got 0"),
        ("far", "outlier_threshold"),
        (float("nan"), "outlier_threshold"),
    ],
    "callbacks": [(print, "callbacks must be a list of callables"), ([3], "callbacks")],
    "checkpoint": [(5, "checkpoint must be a path or None, got 5")],
}
# What both estimators with an encoder refuse.
ENCODERS = {
    "n_restarts": [(0, "n_restarts must be a whole number of at least 1, got 0"), (1.5, "n_restarts")],
    "likelihood": [("cauchy", "likelihood must be one of gaussian, student-t, .*, got 'cauchy'")],
    "noise": [
        ("loud", "noise must be 'isotropic', .* or a positive variance, got 'loud'"),
        (-1.0, "noise must be .* got -1.0"),
        (float("nan"), "noise must be"),
    ],
    "hidden_sizes": [
        (5, "hidden_sizes must be a tuple of whole numbers, got 5"),
        ((8, 0), "each entry of hidden_sizes must be a whole number of at least 1, got 0"),
        ((2, 2.5), "hidden_sizes"),
    ],
}
CONTRASTIVE = {
    "n_restarts": ENCODERS["n_restarts"],
    "hidden_sizes": ENCODERS["hidden_sizes"],
    "activation": [("step", "activation must be one of leaky_relu, .* got 'step'"), (["silu"], "activation")],
}
CRITIC = {"critic": [("cubic", "critic must be one of gaussian, .* got 'cubic'"), ([1], "critic")]}
OWN = {
    "autoencoder": CONTRASTIVE,
    "adversarial": CONTRASTIVE
    | {
        "independence": [
            (0, "independence must be a positive number, got 0"),
            ("much", "independence must be a positive number"),
        ]
    },
    "tcl": CONTRASTIVE | CRITIC,
    "pcl": CONTRASTIVE,
    "gcl": CONTRASTIVE | CRITIC,
    "ivae": ENCODERS
    | {
        "prior": [
            ("cauchy", "prior must be one of gaussian, gaussian-scale, laplace, got 'cauchy'"),
            ([1], "prior"),
        ]
    },
    "vae": ENCODERS
    | {
        "prior": [("uniform", "prior must be one of normal, mixture, got 'uniform'"), ([1], "prior")],
        "gradient": [("reinforce", "gradient must be one of pathwise, stl, dreg, score, got 'reinforce'")],
        "activation": [("sine", "activation must be one of .*, got 'sine'"), ([1], "activation")],
        "batch_size": [(0, "batch_size must be a whole number of at least 1, got 0"), ("all", "batch_size")],
        "learning_rate": [(0, "learning_rate must be a positive number, got 0"), ("fast", "learning_rate")],
        "objective": [("mse", "objective must be one of elbo, iwae, got 'mse'")],
        "beta": [
            (-1, "beta must be a number of at least 0, got -1"),
            ("much", "beta"),
            (float("nan"), "beta"),
        ],
        "samples": [(0, "samples must be a whole number of at least 1, got 0"), (1.5, "samples")],
    },
    "variational-em": ENCODERS
    | {
        "e_step": [("sampled", "e_step must be one of auto, exact, .* got 'sampled'"), ([1], "e_step")],
        "n_nodes": [(0, "n_nodes must be a whole number of at least 1, got 0"), (1.5, "n_nodes")],
        "m_steps": [(0, "m_steps must be a whole number of at least 1, got 0"), (1.5, "m_steps")],
        "follow": [("no", "follow must be True or False, got 'no'")],
        "tolerance": [(0, "tolerance must be a positive number, got 0"), (float("nan"), "tolerance")],
    },
    "marginal-mle": ENCODERS
    | {
        "integrator": [
            ("simpson", "integrator must be one of auto, gauss-hermite, .* got 'simpson'"),
            (3, "integrator"),
        ],
        "n_nodes": [(0, "n_nodes must be a whole number of at least 1, got 0"), (1.5, "n_nodes")],
    },
    "flow": {
        "n_restarts": [(0, "n_restarts must be a whole number of at least 1, got 0"), (1.5, "n_restarts")],
        "prior": [
            ("cauchy", "prior must be one of auto, gaussian, .*, got 'cauchy'"),
            ([1], "prior"),
        ],
        "hidden_sizes": [
            ((5,), r"hidden_sizes=\(5,\), but .* use \(2,\), or \(\) for a linear map"),
            (5, "hidden_sizes"),
            ("ab", "hidden_sizes"),
            ((2, 2.5), "hidden_sizes"),
        ],
    },
    "linear": {
        "method": [("pca", "method must be one of fastica, picard, joint-diagonalization, got 'pca'")]
    },
}
WRONG = [
    (name, parameter, value, message)
    for name in ESTIMATORS
    for parameter, cases in (PARAMETERS | OWN[name]).items()
    for value, message in cases
]


@pytest.mark.parametrize(("name", "parameter", "value", "message"), WRONG)
def test_wrong_parameters_are_named_with_what_is_allowed(no_training, name, parameter, value, message):
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[name](**{parameter: value}).fit(X, u=U)


def test_nothing_is_checked_or_changed_before_fit():
    odd = FlowICA(n_components="two", prior=5, hidden_sizes="ab")
    assert odd.get_params()["prior"] == 5


def test_a_prior_that_needs_labels_says_so_for_numbers(no_training):
    with pytest.raises(DataError, match="prior='laplace' needs labels as u, got a continuous u"):
        FLOW(prior="laplace").fit(X, u=np.linspace(0.1, 0.9, N))


def test_more_components_than_independent_columns_are_refused(no_training):
    with pytest.raises(DataError, match="n_components=3, but X has only 2 linearly independent columns of 3"):
        FLOW(n_components=3).fit(with_column(X.sum(1)), u=U)


def test_dependent_columns_are_fitted_with_as_many_components_as_there_are():
    ica = LINEAR().fit(with_column(X.sum(1)), u=U)
    assert ica.n_components_ == 2
    more = with_column(X.sum(1))
    np.testing.assert_allclose(ica.inverse_transform(ica.transform(more)), more, atol=1e-2)


def test_new_data_are_checked_as_well():
    ica = LINEAR().fit(X, u=U)
    for call in (ica.transform, ica.score_samples, ica.posterior):
        with pytest.raises(ValueError, match="3 features, but LinearICA is expecting 2"):
            call(with_column(X[:, 0]))
        with pytest.raises(ValueError, match="contains NaN"):
            call(changed(5, 1, np.nan))
    with pytest.raises(DataError, match="values the model was not fitted on: 7"):
        ica.score(X, u=np.where(U == 0, 7, U))
    with pytest.raises(DataError, match="has 5 rows but X has 180"):
        ica.score_samples(X, u=U[:5])
    with pytest.raises(DataError, match="not fitted on: 7"):
        ica.sample(u=[7])
    with pytest.raises(ValueError, match="n_samples must be a whole number of at least 1, got -1"):
        ica.sample(-1)
    with pytest.raises(DataError, match=r"S must have shape \(n_samples, 2\), got \(4, 3\)"):
        ica.inverse_transform(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="S contains NaN"):
        ica.inverse_transform(np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        ica.inverse_transform(np.zeros((0, 2)))


def test_methods_before_fit_say_so():
    for call in (
        lambda e: e.transform(X),
        lambda e: e.score(X),
        lambda e: e.sample(3),
        lambda e: e.save("model"),
    ):
        with pytest.raises(ValueError, match="is not fitted yet"):
            call(LINEAR())


# Values that are extreme but usable ---------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_values_near_the_ends_of_floats_are_fitted(factor):
    # A power of two close by, so that only the exponent differs.
    factor = 2.0 ** round(np.log2(factor))
    one, other = LINEAR().fit(X, u=U), LINEAR().fit(factor * X, u=U)
    np.testing.assert_allclose(other.transform(factor * X), one.transform(X), atol=1e-5)
    assert other.score(factor * X, u=U) == pytest.approx(one.score(X, u=U) - 2 * np.log(factor), rel=1e-6)


PLANTED = [3, 50, 101, 170]


def spiked():
    many = make_rows(n_per_segment=200)
    data = many.X.copy()
    data[PLANTED, [0, 1, 0, 1]] = [1e6, -1e6, 2e7, 900.0]
    return data, many


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in {*RELATED, "ivae"} else name
        for name in ESTIMATORS
    ],
)
def test_gross_spikes_are_left_out_and_named(name):
    data, many = spiked()
    options = {"hidden_sizes": ()} if name == "flow" else {}
    estimator = ESTIMATORS[name](validation_fraction=0, **options)
    with pytest.warns(
        DataWarning, match=r"4 row\(s\) hold gross spikes .* 3, 50, 101, 170\..*outlier_threshold=None"
    ):
        estimator.fit(data, u=many.u)
    assert estimator.gross_rows_.tolist() == PLANTED
    assert not set(PLANTED) & set(estimator.fit_rows_)
    kept = np.setdiff1d(np.arange(len(data)), PLANTED)
    np.testing.assert_allclose(estimator.whitening_.scale, data[kept].std(0), rtol=1e-9)
    assert np.isfinite(estimator.transform(data)).all(), "they are still transformed"


def test_spikes_stay_in_if_asked():
    data, many = spiked()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        ica = LINEAR(outlier_threshold=None, validation_fraction=0).fit(data, u=many.u)
    assert len(ica.gross_rows_) == 0
    np.testing.assert_allclose(ica.whitening_.scale, data.std(0), rtol=1e-9)


def test_heavy_tails_keep_every_row():
    rng = np.random.default_rng(0)
    heavy = rng.standard_t(0.8, (600, 2))
    assert (np.abs(heavy) > 50).any(axis=1).sum() > 4, "there are far values"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "u tells nothing", DataWarning)  # it does not, indeed
        warnings.filterwarnings("error", ".*gross spikes", DataWarning)
        ica = LINEAR().fit(heavy, u=np.repeat([0, 1, 2], 200))
    assert len(ica.gross_rows_) == 0


def test_whitening_is_learned_from_fitted_rows_only():
    ica = LINEAR().fit(X, u=U)
    np.testing.assert_array_equal(ica.whitening_.scale, Whitening.from_rows(X[ica.fit_rows_], None).scale)
