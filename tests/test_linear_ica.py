"""`LinearICA`: what y means to it, and Picard beside FastICA."""

import numpy as np
import pytest

import identica
from identica.errors import DataError

OPTIONS = {"max_iter": 50, "validation_fraction": 0.0, "random_state": 0}


@pytest.mark.parametrize(
    "estimator", [identica.LinearICA(**OPTIONS), identica.VAE(n_restarts=1, **OPTIONS)], ids=["linear", "vae"]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_y_is_not_u_where_u_is_not_needed(rows, estimator):
    """scikit-learn's tools pass y to every score; an estimator that takes no y must not read it as u."""
    other = np.random.default_rng(0).normal(size=len(rows.X))
    estimator.fit(rows.X, u=rows.u)
    expected = estimator.score(rows.X)
    assert estimator.score(rows.X, other) == expected
    assert estimator.score(rows.X, rows.u) == expected


def test_y_is_u_where_u_is_needed(rows):
    ica = identica.LinearICA(method="joint-diagonalization", **OPTIONS).fit(rows.X, rows.u)
    assert ica.score(rows.X, rows.u) == ica.score(rows.X, u=rows.u)
    assert ica.score(rows.X, rows.u) != ica.score(rows.X)
    with pytest.raises(DataError, match="values the model was not fitted on"):
        ica.score(rows.X, rows.u + 7)
