"""Flows of splines: bijections by their Jacobian, models that are saved without flowjax's types."""

import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import identica
from identica.networks import SplineFlow

KINDS = ("coupling", "autoregressive")


@pytest.mark.parametrize("kind", ["coupling", pytest.param("autoregressive", marks=pytest.mark.slow)])
def test_volume_is_that_of_the_jacobian_and_the_inverse_undoes(kind):
    with jax.enable_x64(True):
        flow = SplineFlow.random(kind, 3, 2, 4, key=jax.random.key(1))
        moved = tuple(
            leaf + 0.3 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape)
            if eqx.is_inexact_array(leaf)
            else leaf
            for leaf in flow.leaves
        )
        flow = eqx.tree_at(lambda f: f.leaves, flow, moved)
        x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)))
        run = eqx.filter_jit(lambda x: flow(x))
        z, log_det = run(x)
        jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda v: flow(v[:, None])[0][:, 0]), in_axes=1))(x)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(np.asarray(jacobian))[1], atol=1e-9)
        np.testing.assert_allclose(eqx.filter_jit(flow.inverse)(z), x, atol=1e-7)


def test_keys_change_weights_and_not_the_structure():
    first, second = (SplineFlow.random("coupling", 4, 2, 4, key=jax.random.key(k)) for k in (0, 1))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert any(not np.array_equal(a, b) for a, b in zip(first.leaves, second.leaves, strict=True))


@pytest.mark.slow
def test_a_flow_of_splines_is_fitted_saved_and_loaded(tmp_path):
    data = identica.simulate("icebeem", seed=2, n_components=2, n_segments=6, n_per_segment=100, layers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = identica.FlowICA(
            network="coupling-splines", hidden_sizes=(4, 4), max_iter=40, n_restarts=1, random_state=0
        ).fit(data.X, u=data.u)
    assert isinstance(flow.model_.demixer, SplineFlow)
    S = flow.transform(data.X)
    np.testing.assert_allclose(flow.inverse_transform(S), data.X, atol=1e-3 * np.abs(data.X).max())
    flow.save(tmp_path / "model")
    np.testing.assert_array_equal(identica.load(tmp_path / "model").transform(data.X), S)


def test_what_cannot_be_is_said(monkeypatch):
    X, u = np.random.default_rng(0).standard_normal((60, 2)), np.repeat([0, 1, 2], 20)
    with pytest.raises(ValueError, match="network must be"):
        identica.FlowICA(network="splines", max_iter=5).fit(X, u=u)
    with pytest.raises(ValueError, match="volume='free'"):
        identica.FlowICA(network="coupling-splines", volume="preserving", max_iter=5).fit(X, u=u)
    with pytest.raises(ValueError, match="equal size"):
        identica.FlowICA(network="coupling-splines", hidden_sizes=(4, 8), max_iter=5).fit(X, u=u)
    monkeypatch.setitem(sys.modules, "flowjax.bijections", None)
    with pytest.raises(ImportError, match="identica\\[flows\\]"):
        SplineFlow.random("coupling", 2, 2, 4, key=jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_splines_recover_sources(kind):
    data = identica.simulate("iflow", seed=5, n_components=3, n_segments=20, n_per_segment=500, layers=2)
    flow = identica.FlowICA(network=f"{kind}-splines", n_restarts=4, random_state=0).fit(data.X, u=data.u)
    assert identica.metrics.mcc(data.S, flow.transform(data.X)) > 0.97
