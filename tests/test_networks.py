"""Monotone functions and the invertible network, against automatic differentiation and NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from identica.networks import AffineMap, InvertibleNetwork, MonotoneHinges
from identica.networks.determinant import log_abs_det
from identica.networks.invertible import random_orthogonal


def wild(n: int, seed: int, scale: float) -> MonotoneHinges:
    """Hinges far from where they start: every parameter moved by normal noise."""
    start, rng = MonotoneHinges.random(n, key=jax.random.key(seed)), np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + (scale * rng.standard_normal(p.shape)).astype(p.dtype), start)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_log_slope_is_the_derivative_and_is_finite_in_the_tails(scale):
    function = wild(4, 0, scale)
    x = np.tile(np.append(np.linspace(-4, 4, 41), [-1e4, 1e4]), (4, 1)).astype(np.float32)
    value, log_slope, slope = jax.jit(lambda f, x: (*f(x), jax.grad(lambda x: f(x)[0].sum())(x)))(function, x)
    assert (slope > 0).all()
    np.testing.assert_allclose(log_slope, np.log(slope), atol=2e-4)
    order = np.argsort(x[0])
    assert (np.diff(np.asarray(value)[:, order], axis=1) > 0).all()


def test_a_hinge_is_the_formula_of_the_docstring():
    with jax.enable_x64(True):
        f = jax.tree.map(lambda a: np.asarray(a, np.float64), wild(1, 3, 1.0))
        x = np.linspace(-3, 3, 7)
        expected = np.exp(f.slope[0]) * x
        for k in range(2):
            q = x - f.hinge_places[0, 0, k]
            expected += (
                np.exp(f.hinge_slopes[0, 0, k]) / 2 * (q + np.hypot(q, np.exp(f.hinge_widths[0, 0, k])))
            )
            p = x - f.hinge_places[0, 1, k]
            expected += (
                np.exp(f.hinge_slopes[0, 1, k]) / 2 * (p - np.hypot(p, np.exp(f.hinge_widths[0, 1, k])))
            )
        b, place, s = f.step[0, 0], f.step[0, 1], np.exp(f.step[0, 2])
        v = (x - place) / s
        expected += np.exp(b) * s * v / np.sqrt(1 + v**2)
        np.testing.assert_allclose(jax.jit(lambda f, x: f(x))(f, x[None])[0][0], expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_inverse_undoes_the_function(scale):
    function = wild(4, 0, scale)
    there_and_back = jax.jit(lambda f, x: (*f(x), f.inverse(f(x)[0])))
    x = 3 * np.random.default_rng(0).standard_normal((4, 200)).astype(np.float32)
    value, log_slope, back = there_and_back(function, x)
    # What rounding of the value alone costs, times a few.
    tolerance = 20 * np.finfo(np.float32).eps * (1 + np.abs(value)) / np.exp(log_slope) + 1e-6
    assert (np.abs(back - x) <= tolerance).all()
    far = np.tile(np.array([-1e5, 1e5, 30.0, -30.0], np.float32), (4, 50))
    np.testing.assert_allclose(there_and_back(function, far)[2], far, rtol=1e-4)


def test_random_orthogonal_matrices_have_no_preferred_direction():
    q = np.stack([random_orthogonal(2, key=key) for key in jax.random.split(jax.random.key(0), 2000)])
    np.testing.assert_allclose(q @ q.transpose(0, 2, 1), np.broadcast_to(np.eye(2), q.shape), atol=1e-5)
    # Uniform on the group: every entry has mean 0 and second moment 1/n, half are reflections.
    np.testing.assert_allclose(q.mean(0), 0, atol=0.07)
    np.testing.assert_allclose((q**2).mean(0), 0.5, atol=0.04)
    assert abs(np.linalg.det(q).mean()) < 0.1


def test_the_affine_map_is_what_numpy_computes():
    linear = AffineMap.random(3, key=jax.random.key(0))
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_allclose(linear(x), linear.weight @ x + np.asarray(linear.bias)[:, None], atol=1e-6)
    np.testing.assert_allclose(linear.inverse(linear(x)), x, atol=1e-5)
    twice = linear.then(2.0 * jnp.eye(3), jnp.ones(3))
    np.testing.assert_allclose(twice(x), 2 * linear(x) + 1, atol=1e-5)
    np.testing.assert_allclose(twice.log_abs_det(), 3 * np.log(2), atol=1e-5)


def network(n: int, layers: int, seed: int = 0, most_layers: int | None = None) -> InvertibleNetwork:
    """A network with every parameter moved away from where it starts."""
    made = InvertibleNetwork.random(n, layers, key=jax.random.key(seed), most_layers=most_layers)
    rng = np.random.default_rng(seed + 1)
    move = lambda p: p + (0.3 * rng.standard_normal(p.shape)).astype(p.dtype) if p.dtype.kind == "f" else p
    return jax.tree.map(move, made)


NETWORKS = {
    "linear": lambda: network(2, 1),
    "one unit": lambda: network(1, 3),
    "room to grow": lambda: network(3, 3, most_layers=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_log_determinant_is_that_of_the_jacobian_and_the_inverse_undoes_the_network(name):
    net = NETWORKS[name]()
    n = net.last.bias.shape[0]
    with jax.enable_x64(True):

        @jax.jit
        def everything(net, x):
            jacobian = jax.vmap(jax.jacfwd(lambda v: net(v[:, None])[0][:, 0]))(x.T)
            z, log_det = net(x)
            return z, log_det, jacobian, net.inverse(z)

        net = jax.tree.map(lambda a: np.asarray(a, np.float64) if eqx.is_inexact_array(a) else a, net)
        x = np.random.default_rng(0).standard_normal((n, 12))
        z, log_det, jacobian, there_and_back = everything(net, x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-10)
    assert not np.allclose(z, x, atol=0.1)
    np.testing.assert_allclose(there_and_back, x, atol=1e-8)


def test_a_network_without_hidden_layers_is_its_last_linear_map():
    net = NETWORKS["linear"]()
    x = np.random.default_rng(0).standard_normal((2, 9)).astype(np.float32)
    z, log_det = eqx.filter_jit(net)(x)
    np.testing.assert_allclose(z, net.last.weight @ x + np.asarray(net.last.bias)[:, None], atol=1e-6)
    expected = np.linalg.slogdet(np.asarray(net.last.weight))[1]
    np.testing.assert_allclose(log_det, np.full(9, expected), atol=1e-6)


def test_layers_not_yet_in_use_change_nothing_and_get_no_gradient():
    net = network(3, 3, most_layers=4)
    x = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    cut = eqx.tree_at(
        lambda m: (m.maps, m.functions),
        net,
        (jax.tree.map(lambda a: a[:2], net.maps), jax.tree.map(lambda a: a[:2], net.functions)),
    )
    both = eqx.filter_jit(lambda m: (*m(x), m.inverse(x)))
    for one, other in zip(both(net), both(cut), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: sum(part.sum() for part in m(x))))(net)
    for leaf in jax.tree.leaves((gradient.maps, gradient.functions)):
        assert (np.asarray(leaf)[2:] == 0).all()
        assert (np.asarray(leaf)[0] != 0).any()


def test_growing_by_a_layer_keeps_the_function_nearly_unchanged():
    # Outputs of a trained network may have any scale, and that is to be kept, too.
    net = network(3, 3, most_layers=4)
    net = net.followed_by(jnp.diag(jnp.array([5.0, 0.2, 1.0])), jnp.array([3.0, 0, -1]))
    x = np.random.default_rng(0).standard_normal((3, 500)).astype(np.float32)
    grown = net.grown(x, key=jax.random.key(3))
    value = jax.jit(lambda net: net(x)[0])
    before, after = value(net), value(grown)
    assert (net.n_layers, grown.n_layers) == (3, 4)
    error = np.asarray((before - after).std(axis=1) / before.std(axis=1))
    assert (error < 0.25).all()
    assert (error > 1e-3).all(), "the new layer bends, or it would have nothing to learn from"


def test_a_network_without_room_says_so_rather_than_drop_the_layer():
    x, key = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32), jax.random.key(0)
    with pytest.raises(ValueError, match=r"room for 3 layer\(s\) and uses them all"):
        network(3, 3).grown(x, key=key)
    with pytest.raises(ValueError, match=r"room for 1 layer\(s\)"):
        network(3, 1).grown(x, key=key)
    network(3, 3, most_layers=4).check_room()


def test_merging_a_linear_map_is_applying_it_afterwards():
    net = network(3, 3, most_layers=4)
    x = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    weight, bias = (
        np.array([[2.0, 1, 0], [0, 1, 0], [0.5, 0, 1]], np.float32),
        np.array([1.0, 0, -2], np.float32),
    )
    apply = eqx.filter_jit(lambda net: net(x))
    (z, log_det), (merged, merged_log_det) = apply(net), apply(net.followed_by(weight, bias))
    np.testing.assert_allclose(merged, weight @ z + bias[:, None], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(merged_log_det - log_det, np.full(20, np.log(2.0)), atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_the_log_determinant_and_its_gradient_are_those_of_numpy(n):
    weights = np.random.default_rng(n).standard_normal((3, 2, n, n))
    weights[0, 0] = np.eye(n)[::-1]  # no pivot on the diagonal, if n is even
    single = jnp.asarray(weights, jnp.float32)
    slope = jnp.asarray([[1.0, -2.0], [0.5, 1.0], [3.0, 0.0]])
    loss = jax.jit(jax.value_and_grad(lambda w: (slope * log_abs_det(w)).sum()))
    value, gradient = loss(single)
    expected = np.linalg.slogdet(weights)[1]
    assert float(value) == pytest.approx(float((np.asarray(slope) * expected).sum()), abs=1e-3)
    inverses = np.swapaxes(np.linalg.inv(weights), -1, -2) * np.asarray(slope)[..., None, None]
    np.testing.assert_allclose(np.asarray(gradient), inverses, atol=1e-4 * np.abs(inverses).max())
    assert float(jax.jit(log_abs_det)(jnp.zeros((n, n)))) == -np.inf


def test_many_determinants_at_a_time_do_not_wait_for_each_other():
    """Two batches of large matrices in one program stop the library's routine on two cores for ever."""
    weights = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4, 50, 50)), jnp.float32)
    both = jax.jit(jax.vmap(lambda w: log_abs_det(w[:3]).sum() + log_abs_det(w[3])))
    np.testing.assert_allclose(both(weights), np.linalg.slogdet(np.asarray(weights))[1].sum(1), rtol=1e-4)


def test_a_straightening_layer_bends_every_output_by_itself_and_hardly_at_first():
    network = InvertibleNetwork.random(3, 2, key=jax.random.key(0), most_layers=3)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 500)), jnp.float32)
    before, _ = network(x)
    after, _ = network.grown(x, key=jax.random.key(1), turned=False)(x)
    spread = np.asarray(before).std(axis=1, keepdims=True)
    assert (np.abs(np.asarray(after - before)) / spread).max() < 0.1
    for old, new in zip(np.asarray(before), np.asarray(after), strict=True):
        assert spearmanr(old, new).statistic > 0.9999
