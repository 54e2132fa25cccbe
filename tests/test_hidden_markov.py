"""Hidden Markov chains against enumeration of all paths, and `FlowICA(prior="hmm")`."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone

import identica
from identica.conditionals import HiddenMarkovPrior, Table
from identica.conditionals.hidden_markov import GaussianStates
from identica.data import Dataset
from identica.errors import DataError, Status
from identica.families import GaussianLocationScale
from identica.models import FlowModel
from identica.networks.invertible import AffineMap, InvertibleNetwork
from identica.objectives import hidden_markov as objectives
from identica.objectives.hidden_markov import states_of, with_states
from identica.random import named_key
from identica.report.collect import collect
from identica.series import hidden_markov as chain

K, T = 3, 6


def _chain(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    emission = 3 * rng.standard_normal((T, K))
    initial = np.log(rng.dirichlet(np.ones(K)))
    transition = np.log(rng.dirichlet(np.ones(K), size=K))
    return emission, initial, transition


def _paths(first: np.ndarray) -> list[tuple[int, ...]]:
    return list(itertools.product(range(K), repeat=len(first)))


def _joint(path, emission, first, initial, transition):
    """log p(path, rows) by the definition."""
    total = 0.0
    for t, state in enumerate(path):
        begins = t == 0 or first[t]
        total = total + (initial[state] if begins else transition[path[t - 1], state]) + emission[t, state]
    return total


FIRSTS = [np.zeros(T, bool), np.array([True, False, False, True, False, True])]


@pytest.mark.parametrize("first", FIRSTS)
def test_forward_backward_is_the_sum_over_all_paths(first):
    emission, initial, transition = _chain(0)
    with jax.enable_x64(True):
        found = chain.posterior(
            jnp.asarray(emission)[:, None],
            jnp.asarray(first)[:, None],
            jnp.asarray(initial),
            jnp.asarray(transition),
        )
    paths = _paths(first)
    joint = np.array([_joint(p, emission, first, initial, transition) for p in paths])
    weight = np.exp(joint - logsumexp(joint))
    np.testing.assert_allclose(np.asarray(found.log_density).sum(), logsumexp(joint), rtol=1e-12)
    probabilities, starts, moves = np.zeros((T, K)), np.zeros(K), np.zeros((K, K))
    for path, w in zip(paths, weight, strict=True):
        for t, state in enumerate(path):
            probabilities[t, state] += w
            if t == 0 or first[t]:
                starts[state] += w
            else:
                moves[path[t - 1], state] += w
    np.testing.assert_allclose(found.probabilities[:, 0], probabilities, atol=1e-12)
    np.testing.assert_allclose(found.starts, starts, atol=1e-12)
    np.testing.assert_allclose(found.moves, moves, atol=1e-12)


def test_each_row_has_its_density_given_the_rows_before_it():
    emission, initial, transition = _chain(1)
    first = np.zeros(T, bool)
    with jax.enable_x64(True):
        given = [jnp.asarray(v) for v in (initial, transition)]
        rows = np.asarray(
            chain.log_densities(jnp.asarray(emission)[:, None], jnp.asarray(first)[:, None], *given)
        )
    totals = [
        logsumexp(
            [_joint(p, emission, first, initial, transition) for p in itertools.product(range(K), repeat=t)]
        )
        for t in range(1, T + 1)
    ]
    np.testing.assert_allclose(rows[:, 0], np.diff([0.0, *totals]), atol=1e-12)


@pytest.mark.parametrize("first", FIRSTS)
def test_the_most_probable_path_is_that_of_enumeration(first):
    for seed in range(5):
        emission, initial, transition = _chain(seed)
        given = [jnp.asarray(v) for v in (initial, transition)]
        found = chain.most_probable_path(jnp.asarray(emission)[:, None], jnp.asarray(first)[:, None], *given)
        best = max(_paths(first), key=lambda p: _joint(p, emission, first, initial, transition))
        assert tuple(np.asarray(found)[:, 0]) == best


def test_derivatives_of_the_likelihood_are_those_of_the_enumerated_sum():
    emission, initial, transition = _chain(2)
    first = FIRSTS[1]

    paths = np.array(_paths(first))

    def enumerated(emission, initial, transition):
        joint = emission[np.arange(T), paths].sum(1)
        for t in range(T):
            joint += initial[paths[:, t]] if first[t] else transition[paths[:, t - 1], paths[:, t]]
        return jax.nn.logsumexp(joint)

    def recursive(emission, initial, transition):
        return 1.7 * chain.log_likelihood(emission[:, None], jnp.asarray(first)[:, None], initial, transition)

    with jax.enable_x64(True):
        given = [jnp.asarray(v) for v in (emission, initial, transition)]
        expected = jax.jit(jax.grad(enumerated, argnums=(0, 1, 2)))(*given)
        found = jax.jit(jax.grad(recursive, argnums=(0, 1, 2)))(*given)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, 1.7 * np.asarray(b), atol=1e-12)


def test_the_stationary_distribution_is_the_left_eigenvector():
    rng = np.random.default_rng(0)
    sticky = 0.97 * np.eye(5) + 0.03 * rng.dirichlet(np.ones(5), size=5)
    values, vectors = np.linalg.eig(sticky.T)
    left = np.real(vectors[:, np.argmax(values.real)])
    with jax.enable_x64(True):
        found = chain.stationary_distribution(jnp.asarray(sticky))
        ring = chain.stationary_distribution(jnp.roll(jnp.eye(4), 1, axis=1))  # has a period
    np.testing.assert_allclose(found, left / left.sum(), rtol=1e-4)
    np.testing.assert_allclose(ring, 0.25, atol=1e-6)


def test_gaussian_states_have_the_densities_of_scipy_and_gain_in_every_step_of_em():
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.integers(3, size=30), 20)
    x = rng.standard_normal((600, 2)) * np.array([0.3, 1.0, 2.0])[codes, None] + codes[:, None]
    data = Dataset(jnp.asarray(x), sequence=jnp.asarray(np.repeat(np.arange(6), 100)))
    start = GaussianStates(
        jnp.asarray(rng.standard_normal((3, 2))),
        jnp.asarray(np.stack([np.tril(rng.standard_normal((2, 2))) * 0.3 + np.eye(2) for _ in range(3)])),
        jnp.log(jnp.ones(3) / 3),
        jnp.log(jnp.ones((3, 3)) / 3),
    )
    log_p = start.log_emission(jnp.asarray(x))
    for k in range(3):
        factor = np.asarray(start.factors[k], np.float64)
        scipy = multivariate_normal(np.asarray(start.means[k]), np.linalg.inv(factor.T @ factor)).logpdf(x)
        np.testing.assert_allclose(log_p[:, k], scipy, rtol=1e-4, atol=1e-4)
    update, values, states = jax.jit(lambda s: objectives.StatesUpdate(1000)(s, data)), [], start
    for _ in range(30):
        states, value = update(states)
        values.append(float(value))
    assert np.diff(values).max() < 1e-5
    assert values[0] - values[-1] > 0.5


def _small_flow(n: int, seed: int) -> FlowModel:
    rng = np.random.default_rng(seed)
    raw = jnp.asarray(rng.standard_normal((K, n, 2)))
    prior = HiddenMarkovPrior(
        GaussianLocationScale(),
        Table(raw, jnp.asarray(rng.standard_normal(K))),
        jnp.asarray(rng.standard_normal((K, K))),
    )
    network = InvertibleNetwork.random(n, 2, key=named_key(seed))
    return FlowModel(network, prior.family, prior)


def test_the_likelihood_of_a_flow_is_that_of_enumerated_paths():
    system = _small_flow(2, 0)
    rng = np.random.default_rng(1)
    # Seven rows in two stretches, and one that only fills up.
    x = rng.standard_normal((8, 2)).astype(np.float32)
    sequence, weight = np.array([0, 0, 0, 1, 1, 1, 1, 1]), np.array([1, 1, 1, 1, 1, 1, 1, 0.0])
    batch = Dataset(jnp.asarray(x), sequence=jnp.asarray(sequence), weight=jnp.asarray(weight))
    loss = float(objectives.HiddenMarkovLikelihood()(system, batch, key=named_key(0))[0])
    z, log_det = (np.asarray(v, np.float64) for v in system.latents(jnp.asarray(x)))
    prior = system.prior
    raw = np.asarray(prior.parameters.raw, np.float64)  # mean and log variance
    emission = norm(raw[..., 0], np.exp(raw[..., 1] / 2)).logpdf(z[:, None]).sum(-1)
    initial = np.asarray(prior.log_initial, np.float64)
    transition = np.asarray(prior.log_transition, np.float64)
    np.testing.assert_allclose(np.exp(transition).sum(1), 1, rtol=1e-5)
    first = np.diff(sequence, prepend=-1) != 0
    paths = itertools.product(range(K), repeat=7)
    total = logsumexp([_joint(p, emission, first, initial, transition) for p in paths])
    np.testing.assert_allclose(loss, -(total + log_det[:7].sum()) / 7, rtol=1e-4)


# The estimator ------------------------------------------------------------------------------------------


def _series(n_rows: int = 1200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two sources of three sticky states that differ in means and scales, mixed by a matrix."""
    rng = np.random.default_rng(0)
    states = (np.cumsum(rng.random(n_rows) < 0.05)) % 3
    mean, scale = np.array([[0, 0], [3, -2], [-2, -3]]), np.array([[0.3, 1.0], [1.0, 0.3], [0.5, 0.5]])
    S = mean[states] + scale[states] * rng.standard_normal((n_rows, 2))
    return S @ np.array([[1.0, 0.6], [-0.4, 1.0]]), S, states


def _estimator(**options) -> identica.FlowICA:
    cheap = {"hidden_sizes": (), "max_iter": 100, "n_restarts": 1, "n_states": 3, "random_state": 0}
    return identica.FlowICA(prior="hmm", **(cheap | options))


@pytest.fixture(scope="module")
def fitted() -> identica.FlowICA:
    return _estimator().fit(_series()[0])


def accuracy(true: np.ndarray, found: np.ndarray) -> float:
    """Share of rows in the right state after the best matching."""
    table = np.zeros((true.max() + 1, found.max() + 1))
    np.add.at(table, (true, found), 1)
    return table[linear_sum_assignment(-table)].sum() / len(true)


def test_states_and_sources_of_a_linear_mixture_are_found(fitted):
    X, S, states = _series()
    assert identica.metrics.mcc(S, fitted.transform(X)) > 0.99
    assert accuracy(states, fitted.states_) > 0.98
    assert fitted.states_.shape == (len(X),)
    assert (np.bincount(fitted.states_)[:-1] >= np.bincount(fitted.states_)[1:] - 60).all()
    np.testing.assert_allclose(fitted.transition_matrix_.sum(1), 1, rtol=1e-12)
    assert (np.diag(fitted.transition_matrix_) > 0.9).all()
    shares = fitted.stationary_distribution_
    np.testing.assert_allclose(shares @ fitted.transition_matrix_, shares, atol=1e-6)
    probabilities = fitted.state_probabilities(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    assert (probabilities.argmax(1) == fitted.states_).mean() > 0.99


def test_the_score_of_a_series_is_its_enumerated_likelihood(fitted):
    X = _series()[0][:7] + 0.1
    ids = np.array([0, 0, 0, 0, 1, 1, 1])
    prior = fitted.model_.prior
    z, log_det = (
        np.asarray(v, np.float64)
        for v in fitted.model_.latents(jnp.asarray(fitted._model_input(X), jnp.float32))
    )
    raw = np.asarray(prior.parameters.raw, np.float64)
    emission = norm(raw[..., 0], np.exp(raw[..., 1] / 2)).logpdf(z[:, None]).sum(-1)
    initial, transition = (np.asarray(v, np.float64) for v in (prior.log_initial, prior.log_transition))
    rest = fitted.whitening_.log_density_of_the_rest(X)
    for sequence in (None, ids):
        first = np.diff(np.zeros(7) if sequence is None else sequence, prepend=-1) != 0
        paths = itertools.product(range(3), repeat=7)
        total = logsumexp([_joint(p, emission, first, initial, transition) for p in paths])
        rows = fitted.score_samples(X, sequence=sequence)
        np.testing.assert_allclose(rows.sum(), total + (log_det + rest).sum(), rtol=1e-4)
        assert fitted.score(X, sequence=sequence) == pytest.approx(rows.mean())
        assert fitted.log_likelihood(X, sequence=sequence).value == pytest.approx(rows.mean())


def test_series_may_stand_in_any_order_and_do_not_touch(fitted):
    X = _series()[0][:60]
    ids = np.repeat([1, 0], 30)
    together = fitted.score_samples(X, sequence=ids)
    apart = np.concatenate([fitted.score_samples(X[:30]), fitted.score_samples(X[30:])])
    np.testing.assert_allclose(together, apart, atol=1e-4)
    mixed = np.arange(60).reshape(2, 30).T.ravel()  # rows of both by turns
    np.testing.assert_allclose(
        fitted.score_samples(X[mixed], sequence=ids[mixed]), together[mixed], atol=1e-4
    )
    np.testing.assert_array_equal(
        fitted.predict_states(X[mixed], sequence=ids[mixed]), fitted.predict_states(X, sequence=ids)[mixed]
    )


def test_draws_move_between_states_as_the_chain_does(fitted):
    X, S = fitted.sample(4000, random_state=0)
    assert X.shape == S.shape == (4000, 2)
    assert abs(fitted.score(X) - fitted.score(_series()[0])) < 0.2
    states = fitted.predict_states(X)
    stays = np.mean(states[1:] == states[:-1])
    expected = (np.diag(fitted.transition_matrix_) * np.bincount(states, minlength=3) / 4000).sum()
    assert abs(stays - expected) < 0.02


def test_saved_and_loaded_states_are_the_same(fitted, tmp_path):
    X = _series()[0]
    fitted.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.states_, fitted.states_)
    np.testing.assert_array_equal(again.score_samples(X), fitted.score_samples(X))
    np.testing.assert_array_equal(again.sample(5, random_state=1)[0], fitted.sample(5, random_state=1)[0])


def test_held_out_rows_are_whole_windows(fitted):
    held_out = np.sort(fitted.held_out_rows_)
    stretches = np.split(held_out, np.flatnonzero(np.diff(held_out) != 1) + 1)
    assert min(len(s) for s in stretches) >= 20
    assert 0.05 < len(held_out) / 1200 < 0.15
    assert not set(held_out) & set(fitted.fit_rows_)


@pytest.mark.slow
def test_series_as_long_as_real_ones_are_fitted():
    # From some two thousand rows on, flows with a known u are judged for noise; hidden states are not.
    X, S, _ = _series(2600)
    long = _estimator(max_iter=150).fit(X)
    assert long.noise_gain_ is None
    assert identica.metrics.mcc(S, long.transform(X)) > 0.99


def test_the_same_seed_gives_the_same_fit(fitted):
    again = clone(fitted).fit(_series()[0])
    np.testing.assert_array_equal(again.states_, fitted.states_)
    np.testing.assert_array_equal(again.transform(_series()[0]), fitted.transform(_series()[0]))


def test_an_interrupted_fit_goes_on_to_the_same_end(fitted, tmp_path):
    X = _series()[0]

    def stop(progress):
        if progress.name.endswith("own states"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _estimator(checkpoint=tmp_path / "run", callbacks=[stop]).fit(X)
    again = _estimator(checkpoint=tmp_path / "run").fit(X)
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    np.testing.assert_array_equal(again.states_, fitted.states_)


@pytest.mark.parametrize("stage", ["states", "1 layer", "own states", "polish"])
def test_a_fit_that_a_callback_stops_is_a_fit(stage):
    X = _series()[0]
    ica = _estimator(callbacks=[lambda progress: progress.name == stage])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ica.fit(X)
    assert ica.status_ is Status.STOPPED
    assert np.isfinite(ica.score(X))
    assert ica.predict_states(X).max() < 3


def test_known_states_make_the_prior_that_counting_makes():
    _, S, states = _series()
    data = Dataset(jnp.asarray(S, jnp.float32), jnp.zeros(len(S), jnp.int32))
    network = InvertibleNetwork.linear(AffineMap(jnp.eye(2), jnp.zeros(2)))
    flow = with_states(
        FlowModel(network, GaussianLocationScale()), data, jnp.asarray(states, jnp.int32), 3, 0
    )
    mean, variance = flow.prior.family.mean_and_variance(
        flow.prior.family.natural_parameters(flow.prior.parameters.raw)
    )
    for state in range(3):
        np.testing.assert_allclose(mean[state], S[states == state].mean(0), atol=0.02)
        np.testing.assert_allclose(variance[state], S[states == state].var(0), rtol=0.15)
    # Of 1188 steps within pieces of a hundred rows; each state begins with a third of a move to each.
    within = np.arange(1, len(S)) % 100 != 0
    moves = np.full((3, 3), 1 / 3)
    np.add.at(moves, (states[:-1][within], states[1:][within]), 1)
    expected = moves / moves.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(flow.prior.log_transition), expected, atol=2e-5)
    assert accuracy(states, np.asarray(states_of(flow, data))) > 0.98


def test_the_report_scores_held_out_windows_in_order(fitted):
    frame = pd.DataFrame(_series()[0], columns=["a", "b"])
    contents = collect(fitted, frame)
    held_out = np.sort(fitted.held_out_rows_)
    breaks = np.concatenate([[0], np.cumsum(np.diff(held_out) != 1)])
    expected = fitted.score(frame.iloc[held_out], sequence=breaks)
    assert contents.scores["model"]["mean"] == pytest.approx(expected)
    assert contents.scores["difference"]["mean"] > 0.5  # states tell more than a mixture per source


def test_what_does_not_fit_together_is_refused(fitted):
    X, _, states = _series(300)
    with pytest.raises(DataError, match="takes no u"):
        _estimator().fit(X, u=states)
    with pytest.raises(DataError, match="takes no u"):
        fitted.score(X, u=states)
    with pytest.raises(DataError, match="at least 1000 rows"):
        _estimator(n_states=50).fit(X)
    with pytest.raises(ValueError, match="n_states must be a whole number of at least 2"):
        _estimator(n_states=1).fit(X)
    with pytest.raises(ValueError, match="n_states=4 is for prior='hmm'"):
        identica.FlowICA(n_states=4).fit(X, u=states)
    with pytest.raises(ValueError, match="volume='free'"):
        _estimator(volume="preserving").fit(X)
    with pytest.raises(DataError, match="sequence has shape"):
        fitted.predict_states(X, sequence=[0, 1])


@pytest.mark.slow
def test_hidden_states_and_sources_of_a_nonlinear_mixture_are_recovered():
    """The setting of HM-NLICA with two layers and a fifth of its rows; truth is used for scoring only."""
    data = identica.simulate("hmm", seed=0, n_rows=20_000, layers=2)
    fit = np.arange(20_000) < 16_000
    ica = identica.FlowICA(prior="hmm", n_restarts=4, max_iter=1500, random_state=0).fit(data.X[fit])
    S = ica.transform(data.X)
    assert identica.metrics.mcc(data.S, S, fit_rows=np.flatnonzero(fit)) > 0.98
    assert accuracy(data.u[~fit], ica.predict_states(data.X[~fit])) > 0.99
    linear = identica.FlowICA(prior="hmm", hidden_sizes=(), n_restarts=2, random_state=0).fit(data.X[fit])
    assert ica.score(data.X[~fit]) > linear.score(data.X[~fit]) + 1
