"""The option ``likelihood`` of estimators: which values it takes, and which model it names."""

import numpy as np

from identica.conditionals.observations.base import Observation
from identica.conditionals.observations.counts import NegativeBinomialObservation, PoissonObservation
from identica.conditionals.observations.discrete import BernoulliObservation, CategoricalObservation
from identica.conditionals.observations.real import GaussianObservation, StudentTObservation
from identica.errors import DataError
from identica.typing import FloatArray

LIKELIHOODS = ("gaussian", "student-t", "bernoulli", "poisson", "negative-binomial", "categorical")
REAL = ("gaussian", "student-t")
"""Those of real numbers, whose columns may be standardised."""

ENCODINGS = {"student-t": "squash", "poisson": "root", "negative-binomial": "root", "categorical": "one-hot"}
"""How an encoder's features take the columns in; others as they are."""

_MOST_CATEGORIES = 1000


def check_likelihood(likelihood: str, noise: str | float = "diagonal") -> None:
    """Whether the option is known, and ``noise`` goes with it.

    Raises
    ------
    ValueError
    """
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
    if likelihood != "gaussian" and noise != "diagonal":
        raise ValueError(
            f"noise={noise!r} is an option of likelihood='gaussian' and has no meaning for "
            f"likelihood={likelihood!r}; leave noise at its default"
        )


def check_values(likelihood: str, x: FloatArray, observation: Observation | None = None) -> None:
    """Whether rows x (N, d) are values that the likelihood can have.

    Parameters
    ----------
    likelihood : str
    x : (N, d)
    observation : Observation, optional
        Of a fitted model, whose categories new rows must not exceed.

    Raises
    ------
    DataError
        Naming the first column and value that are not.
    """
    if likelihood == "bernoulli":
        _require(
            x, ~np.isin(x, (0, 1)), likelihood, "values 0 and 1", "threshold X or use another likelihood"
        )
    elif likelihood in ("poisson", "negative-binomial"):
        hint = "use likelihood='gaussian' or 'student-t' for real numbers"
        _require(x, (x < 0) | (np.round(x) != x), likelihood, "counts 0, 1, 2, …", hint)
    elif likelihood == "categorical":
        hint = "turn categories into codes first (sklearn.preprocessing.OrdinalEncoder)"
        _require(x, (x < 0) | (np.round(x) != x), likelihood, "codes 0, 1, 2, … in each column", hint)
        if isinstance(observation, CategoricalObservation):
            sizes = np.asarray(observation.sizes)
            _require(
                x,
                x >= sizes,
                likelihood,
                "categories that occurred in the fit",
                "drop these rows, or fit on rows in which every category occurs",
            )


def observation_of(likelihood: str, noise: str | float, *rows: FloatArray) -> Observation:
    """The observation model that the options ``likelihood`` and ``noise`` name.

    Parameters
    ----------
    likelihood : str
    noise : str or float
        Of Gaussian observations.
    *rows : (N, d)
        Fitted and held-out rows, of which a categorical model takes its categories.

    Raises
    ------
    DataError
        If codes look like numbers rather than categories.
    """
    check_likelihood(likelihood, noise)
    d = rows[0].shape[1]
    if likelihood == "gaussian":
        return GaussianObservation.from_option(noise, d)
    if likelihood == "student-t":
        return StudentTObservation.of_columns(d)
    if likelihood == "bernoulli":
        return BernoulliObservation()
    if likelihood == "poisson":
        return PoissonObservation()
    if likelihood == "negative-binomial":
        return NegativeBinomialObservation.of_columns(d)
    observation = CategoricalObservation.from_codes(*rows)
    for column, size in enumerate(observation.sizes):
        distinct = len(np.unique(np.concatenate([r[:, column] for r in rows])))
        if size > _MOST_CATEGORIES or size > 2 * distinct + 8:
            raise DataError(
                f"likelihood='categorical' expects codes 0, 1, 2, … but column {column} holds {distinct} distinct "
                f"values up to {size - 1}; number its categories from 0 (sklearn.preprocessing.OrdinalEncoder), "
                "or use a likelihood of counts"
            )
    return observation


def _require(x: FloatArray, wrong: np.ndarray, likelihood: str, what: str, hint: str) -> None:
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"likelihood={likelihood!r} needs {what}, but column {column} holds {x[row, column]:g} "
            f"(row {row}); {hint}"
        )
