"""The Pareto shape of importance weights against another library and against laws of known shape."""

import jax
import numpy as np
import pytest
from numpyro.infer import importance

from identica.evaluation import pareto
from identica.evaluation.pareto import generalized_pareto_shape, tail_length

pareto_k = jax.jit(pareto.pareto_k)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("count", [60, 1000, 5000])
def test_agrees_with_numpyro(spread, count):
    log_weights = spread * np.random.default_rng(count).standard_t(8, size=(4, count))
    with jax.enable_x64(True):
        found = np.asarray(pareto_k(log_weights))
    expected = [importance._psis_khat(row) for row in log_weights]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.6, 1.2])
def test_recovers_the_shape_of_a_pareto_law(shape):
    uniform = np.random.default_rng(1).random((20, 4000))
    excess = np.sort((uniform**-shape - 1) / shape, axis=1)
    found = np.asarray(jax.jit(generalized_pareto_shape)(excess.astype(np.float32)))
    # Maximum likelihood has standard deviation (1 + k)/√M.
    np.testing.assert_allclose(found.mean(), shape, atol=4 * (1 + shape) / np.sqrt(4000 * 20) + 0.005)


def test_a_narrow_gaussian_proposal_has_the_known_tail():
    # For p = N(0, 1) and q = N(0, s²) weights have shape 1 − s² where s < 1, reached slowly.
    z = np.random.default_rng(0).normal(size=(10, 100_000))
    sd = 0.6
    log_weights = -0.5 * (sd * z) ** 2 + 0.5 * z**2
    assert np.asarray(pareto_k(log_weights)).mean() == pytest.approx(1 - sd**2, abs=0.12)


def test_weights_without_a_tail():
    assert np.isneginf(pareto_k(np.zeros((2, 100)))).all()
    assert np.isnan(pareto_k(np.random.default_rng(0).normal(size=20)))
    assert np.isfinite(pareto_k(np.random.default_rng(0).normal(size=21)))
    assert tail_length(25) == 5
    # One weight that is all there is: as bad as can be, and still a number.
    assert pareto_k(np.r_[np.zeros(999), 100.0]) > 0.7


def test_a_constant_factor_changes_nothing():
    log_weights = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert pareto_k(log_weights) == pytest.approx(float(pareto_k(log_weights - 500.0)), abs=1e-3)
