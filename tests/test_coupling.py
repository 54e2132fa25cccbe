"""Couplings, against automatic differentiation; and that they are kept only where they help."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import identica
from identica.networks import CouplingStack, InvertibleNetwork, RefinedNetwork
from identica.networks.coupling import coupling_parameters


def strong(n: int, *, count: int = 3) -> CouplingStack:
    """Couplings far from the identity."""
    stack = CouplingStack.random(n, count, 8, key=jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: a if a.ndim == 0 else (a + 0.4 * rng.standard_normal(a.shape)).astype(a.dtype), stack
    )


@pytest.mark.parametrize("n", [2, 5])
def test_the_log_determinant_is_that_of_the_jacobian_and_the_inverse_undoes(n):
    with jax.enable_x64(True):
        stack = jax.tree.map(lambda a: np.asarray(a, np.float64), strong(n))
        z = np.random.default_rng(0).standard_normal((n, 20))
        value, log_det, back = eqx.filter_jit(lambda s, z: (*s(z), s.inverse(s(z)[0])))(stack, z)
        one = jax.jit(jax.jacfwd(lambda column: stack(column[:, None])[0][:, 0]))
        expected = [np.linalg.slogdet(np.asarray(one(column)))[1] for column in z.T]
    np.testing.assert_allclose(log_det, expected, atol=1e-9)
    np.testing.assert_allclose(back, z, atol=1e-8)
    changed = np.abs(np.asarray(value) - z).max(axis=1)
    assert (changed > 0.1).all(), "every component is changed"


def test_far_from_all_rows_one_half_no_longer_moves_the_other():
    """So a new row outside of what was fitted goes no further than in proportion, however many couplings there are."""
    with jax.enable_x64(True):
        stack = jax.tree.map(lambda a: np.asarray(a, np.float64), strong(2, count=1))
        slope = jax.jit(jax.jacfwd(lambda column: stack(column[:, None])[0][:, 0]))
        for direction in np.random.default_rng(2).standard_normal((10, 2)):
            near, far = (np.asarray(slope(r * direction)) for r in (1.0, 1e5))
            turn, last = stack.turns.weight[0], stack.last.weight
            near, far = (np.linalg.inv(last) @ j @ np.linalg.inv(turn) for j in (near, far))
            assert abs(near[0, 0]) > 1e-3
            assert abs(far[0, 0]) < 1e-9
            assert np.exp(-2.0) <= far[0, 1] <= np.exp(2.0)


def test_a_new_stack_is_nearly_the_identity_and_one_out_of_use_is_it():
    z = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    value, log_det = eqx.filter_jit(lambda s, z: s(z))(
        CouplingStack.random(3, 4, 8, key=jax.random.key(0)), z
    )
    np.testing.assert_allclose(value, z, atol=0.1)
    np.testing.assert_allclose(log_det, 0.0, atol=0.1)
    network = InvertibleNetwork.random(3, 2, key=jax.random.key(1))
    refined = RefinedNetwork(network, strong(3)).using(False)
    value, log_det, plain, back = eqx.filter_jit(lambda r, z: (*r(z), r.network(z), r.inverse(r(z)[0])))(
        refined, z
    )
    np.testing.assert_array_equal(value, plain[0])
    np.testing.assert_array_equal(log_det, plain[1])
    np.testing.assert_allclose(back, z, atol=1e-3)
    assert refined.n_layers == 2


def test_out_of_use_there_is_no_gradient():
    refined = RefinedNetwork(InvertibleNetwork.random(2, 2, key=jax.random.key(1)), strong(2)).using(False)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda r: r(jnp.ones((2, 5)))[0].sum()))(refined)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient.couplings))


def test_the_number_of_parameters_is_counted_right():
    stack = CouplingStack.random(5, 6, 32, key=jax.random.key(0))
    counted = sum(leaf.size for leaf in jax.tree.leaves((stack.networks, stack.turns, stack.last)))
    assert coupling_parameters(5, 6, 32) == counted


@pytest.mark.slow
def test_couplings_are_dropped_for_a_linear_mixing_and_kept_for_a_twist():
    rows = identica.simulate("linear", seed=3, n_components=2, n_per_segment=400)
    twist = identica.simulate("radial", seed=3, n_components=2, n_per_segment=400)
    linear = identica.FlowICA(max_iter=600, n_restarts=2, random_state=0).fit(rows.X, u=rows.u)
    curved = identica.FlowICA(max_iter=600, n_restarts=2, random_state=0).fit(twist.X, u=twist.u)
    assert float(linear.model_.demixer.couplings.in_use) == 0.0
    assert float(curved.model_.demixer.couplings.in_use) == 1.0
