"""The contract of the estimators: scikit-learn's tools, u of all kinds, units, densities and draws."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import optimize, stats
from sklearn.base import clone
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

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
    FlowICA,
    LinearICA,
    MarginalMLE,
    NonlinearICA,
    VariationalEM,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SHORT = {"max_iter": 20, "n_restarts": 2}

# Every estimator with settings that make it quick; what holds for all is tested for all.
QUICK = {
    "linear-fastica": lambda **kw: LinearICA(**{"random_state": 0, **kw}),
    "linear-joint-diagonalization": lambda **kw: LinearICA(
        **{"method": "joint-diagonalization", "random_state": 0, **kw}
    ),
    "flow": lambda **kw: FlowICA(**{**SHORT, "random_state": 0, **kw}),
    "ivae": lambda **kw: IVAE(**{**SHORT, "hidden_sizes": (), "random_state": 0, **kw}),
    "tcl": lambda **kw: TCL(**{**SHORT, "hidden_sizes": (8,), "random_state": 0, **kw}),
    "pcl": lambda **kw: PCL(**{**SHORT, "hidden_sizes": (8,), "random_state": 0, **kw}),
    "gcl": lambda **kw: GCL(**{**SHORT, "hidden_sizes": (8,), "random_state": 0, **kw}),
    "vae": lambda **kw: VAE(**{**SHORT, "hidden_sizes": (8,), "random_state": 0, **kw}),
    "marginal-mle": lambda **kw: MarginalMLE(**{**SHORT, "hidden_sizes": (), "random_state": 0, **kw}),
    "variational-em": lambda **kw: VariationalEM(**{**SHORT, "hidden_sizes": (), "random_state": 0, **kw}),
    "autoencoder": lambda **kw: Autoencoder(**{**SHORT, "hidden_sizes": (8,), "random_state": 0, **kw}),
    "adversarial": lambda **kw: AdversarialICA(**{**SHORT, "hidden_sizes": (8,), "random_state": 0, **kw}),
    "nonlinear": lambda **kw: NonlinearICA(
        **{"candidates": ("fastica", "joint-diagonalization"), "random_state": 0, **kw}
    ),
}
# A full run of scikit-learn's checks fits some sixty times, in as many shapes.
SLOW_CHECK = {
    "adversarial",
    "autoencoder",
    "flow",
    "gcl",
    "ivae",
    "marginal-mle",
    "pcl",
    "tcl",
    "vae",
    "variational-em",
}


@pytest.fixture(scope="module")
def fitted(rows):
    cache = {}

    def get(name):
        if name not in cache:
            cache[name] = QUICK[name]().fit(rows.X, u=rows.u)
        return cache[name]

    return get


# Those without noise, whose likelihood is exact and whose sources are a function of X.
EXACT = ["linear-fastica", "linear-joint-diagonalization", "flow"]

# Those that model no density of X: their score compares rows with each other, or is an error.
WITHOUT_DENSITY = ["tcl", "pcl", "gcl", "autoencoder", "adversarial"]

# Those that share their base class with one that is always tested, and have tests of their own.
RELATED = {"adversarial", "autoencoder", "tcl", "pcl", "gcl", "marginal-mle", "vae", "variational-em"}


def _each(names, slow=RELATED):
    """One test per estimator, the related ones only among the slow tests: compiling them takes minutes."""
    cases = [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]
    return pytest.mark.parametrize("name", cases)


each = _each(QUICK)
# What needs fits of its own, of which an iVAE's compiles longest.
each_cheap = _each(QUICK, {*RELATED, "ivae"})
each_density = _each([name for name in QUICK if name not in WITHOUT_DENSITY])
each_exact = pytest.mark.parametrize("name", EXACT)


# scikit-learn ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_CHECK else n for n in QUICK]
)
def test_scikit_learn_finds_nothing_to_complain_about(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(QUICK[name](random_state=None))


@each
def test_clone_keeps_every_parameter_and_nothing_that_was_fitted(name, fitted):
    copy = clone(fitted(name))
    assert copy.get_params() == fitted(name).get_params()
    assert not [k for k in vars(copy) if k.endswith("_")]


@each
def test_a_pipeline_gives_what_its_steps_give(name, rows):
    pipeline = make_pipeline(StandardScaler(), QUICK[name](), LogisticRegression()).fit(rows.X, rows.u)
    Z = StandardScaler().fit_transform(rows.X)
    S = QUICK[name]().fit(Z, rows.u).transform(Z)
    expected = LogisticRegression().fit(S, rows.u).predict(S)
    np.testing.assert_array_equal(pipeline.predict(rows.X), expected)


@each_cheap
def test_cross_validation_passes_u_on_and_y_will_do(name, rows):
    folds = KFold(2, shuffle=True, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = cross_validate(QUICK[name](), rows.X, params={"u": rows.u}, cv=folds, error_score="raise")
    plain = cross_validate(QUICK[name](), rows.X, rows.u, cv=folds, error_score="raise")
    by_hand = [
        QUICK[name]().fit(rows.X[a], u=rows.u[a]).score(rows.X[b], u=rows.u[b])
        for a, b in folds.split(rows.X)
    ]
    np.testing.assert_array_equal(routed["test_score"], by_hand)
    if not QUICK[name]().__sklearn_tags__().target_tags.required:
        # Where u is not needed, y is what it is for other transformers: no business of theirs.
        by_hand = [QUICK[name]().fit(rows.X[a]).score(rows.X[b]) for a, b in folds.split(rows.X)]
    np.testing.assert_array_equal(plain["test_score"], by_hand)


def test_routing_reaches_the_estimator_in_a_pipeline(rows):
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), QUICK["flow"]()).fit(rows.X, u=rows.u)
        score = pipeline.score(rows.X, u=rows.u)
    alone = QUICK["flow"]().fit(StandardScaler().fit_transform(rows.X), u=rows.u)
    assert score == alone.score(StandardScaler().fit_transform(rows.X), u=rows.u)


def test_grid_search_chooses_by_held_out_likelihood(rows):
    grid = {"method": ["fastica", "joint-diagonalization"], "n_components": [1, 2]}
    search = GridSearchCV(LinearICA(random_state=0), grid, cv=KFold(2, shuffle=True, random_state=0))
    search.fit(rows.X, rows.u)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert search.best_score_ == scores.max()
    assert search.best_estimator_.transform(rows.X).shape == (180, search.best_params_["n_components"])


@pytest.mark.slow
def test_grid_search_over_a_flow(rows):
    search = GridSearchCV(QUICK["flow"](), {"hidden_sizes": [(), (2,)]}, cv=2, error_score="raise")
    search.fit(rows.X, rows.u)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_output_comes_as_the_frame_that_was_asked_for(rows, container):
    make = pd.DataFrame if container == "pandas" else pl.DataFrame
    frame = make({"left": rows.X[:, 0], "right": rows.X[:, 1]})
    ica = LinearICA(random_state=0).set_output(transform=container).fit(frame)
    out = ica.transform(frame)
    assert isinstance(out, make)
    assert list(out.columns) == ["linearica0", "linearica1"] == ica.get_feature_names_out().tolist()
    assert ica.feature_names_in_.tolist() == ["left", "right"]
    plain = LinearICA(random_state=0).fit(rows.X).transform(rows.X)
    np.testing.assert_array_equal(np.asarray(out), plain)
    with pytest.raises(ValueError, match="feature names should match"):
        ica.transform(make({"right": rows.X[:, 1], "left": rows.X[:, 0]}))


@each
def test_without_u_or_y_the_sentence_is_scikit_learns(name, rows):
    estimator = QUICK[name]()
    if not estimator.__sklearn_tags__().target_tags.required:
        estimator.fit(rows.X)
        return
    with pytest.raises(ValueError, match=r"requires y to be passed, but the target y is None.*u=…"):
        estimator.fit(rows.X)


# Fitted attributes -----------------------------------------------------------------------------------


@each
def test_fitted_attributes_are_those_of_the_contract(name, fitted, rows):
    estimator = fitted(name)
    assert estimator.n_features_in_ == estimator.n_components_ == 2
    assert estimator.seed_ == 0
    assert isinstance(estimator.converged_, bool)
    assert estimator.converged_ == (estimator.status_ is identica.errors.Status.CONVERGED)
    assert estimator.n_iter_ >= 1
    assert set(estimator.history_) == {"stage", "step", "restart", "loss", "held_out"}
    assert all({"seed", "held_out", "status"} <= set(record) for record in estimator.restarts_)
    split = np.concatenate([estimator.fit_rows_, estimator.held_out_rows_])
    np.testing.assert_array_equal(np.sort(split), np.arange(180))
    assert np.bincount(rows.u[estimator.held_out_rows_]).tolist() == [6, 6, 6]
    assert len(estimator.gross_rows_) == 0


def test_a_fit_that_was_cut_short_warns_and_says_what_to_do(rows):
    with pytest.warns(ConvergenceWarning, match="FlowICA: stopped at max_iter while .* raise max_iter"):
        flow = QUICK["flow"]().fit(rows.X, u=rows.u)
    assert not flow.converged_


@each
def test_sources_have_unit_variance_the_stated_order_and_sign(name, fitted, rows):
    estimator = fitted(name)
    own = estimator.fit_rows_
    S, X = estimator.transform(rows.X, u=rows.u)[own], rows.X[own]
    np.testing.assert_allclose(S.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(S.std(0), 1, atol=1e-4)
    correlation = np.corrcoef(S.T, X.T)[:2, 2:]
    explained = (correlation**2).sum(1)
    assert (np.diff(explained) <= 1e-6).all(), "largest share of X first"
    # Principal components of two standardised columns resemble both alike, one of them negatively.
    assert (correlation.max(1) > np.abs(correlation).max(1) - 1e-6).all()


@each
def test_the_same_seed_gives_the_same_bits_and_another_seed_another_split(name, fitted, rows):
    again = QUICK[name]().fit(rows.X, u=rows.u)
    np.testing.assert_array_equal(again.transform(rows.X), fitted(name).transform(rows.X))
    assert again.score(rows.X, u=rows.u) == fitted(name).score(rows.X, u=rows.u)
    other = QUICK[name](random_state=1).fit(rows.X, u=rows.u)
    assert not np.array_equal(np.sort(other.held_out_rows_), np.sort(again.held_out_rows_))


@each
def test_fit_transform_is_fit_then_transform(name, fitted, rows):
    np.testing.assert_array_equal(
        QUICK[name]().fit_transform(rows.X, u=rows.u), fitted(name).transform(rows.X, u=rows.u)
    )


@each
@pytest.mark.parametrize(("factor", "shift"), [(1e6, 1e5), ([1e-3, 1e4], [1e5, -1e5])])
def test_units_of_columns_do_not_change_the_sources(name, fitted, rows, factor, shift):
    units = rows.X * np.asarray(factor) + np.asarray(shift)
    other = QUICK[name]().fit(units, u=rows.u)
    np.testing.assert_allclose(other.transform(units), fitted(name).transform(rows.X), atol=1e-4)
    # A density transforms with the volume.
    volume = 0.0 if name in WITHOUT_DENSITY else np.log(np.asarray(factor) * np.ones(2)).sum()
    difference = fitted(name).score(rows.X, u=rows.u) - other.score(units, u=rows.u)
    assert difference == pytest.approx(volume, abs=1e-3)


def test_linear_ica_by_fastica_is_scikit_learns_fastica(rows):
    ica = LinearICA(validation_fraction=0, random_state=0).fit(rows.X)
    sources = FastICA(whiten="unit-variance", random_state=0, max_iter=500).fit_transform(rows.X)
    agreement = np.abs(np.corrcoef(ica.transform(rows.X).T, sources.T)[:2, 2:])
    np.testing.assert_allclose(np.sort(agreement.max(1)), 1, atol=1e-3)
    np.testing.assert_allclose((rows.X - ica.mean_) @ ica.components_.T, ica.transform(rows.X), atol=1e-4)


# u of all kinds --------------------------------------------------------------------------------------

NAMES = np.array(["rest", "task", "sleep"])
LABELS = {
    "strings": lambda u: NAMES[u],
    "whole floats": lambda u: u.astype(float),
    "objects": lambda u: NAMES[u].astype(object),
    "list": lambda u: NAMES[u].tolist(),
    "column": lambda u: u[:, None],
    "one-hot": lambda u: np.eye(3)[u],
    "pandas categories": lambda u: pd.Series(pd.Categorical(NAMES[u])),
    "pandas frame": lambda u: pd.DataFrame({"state": NAMES[u], "first": u == 0}),
    "polars frame": lambda u: pl.DataFrame({"state": NAMES[u], "first": u == 0}),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type_give_the_same_segments(kind, rows):
    u = LABELS[kind](rows.u)
    # Held-out rows are drawn segment by segment, in the order of the labels; hence none here.
    expected = LinearICA(method="joint-diagonalization", validation_fraction=0, random_state=0).fit(
        rows.X, u=rows.u
    )
    ica = clone(expected).fit(rows.X, u=u)
    assert ica.auxiliary_.kind == "discrete"
    assert ica.auxiliary_.n_segments == 3
    np.testing.assert_allclose(np.abs(ica.transform(rows.X)), np.abs(expected.transform(rows.X)), atol=1e-3)
    np.testing.assert_allclose(ica.score(rows.X, u=u), expected.score(rows.X, u=rows.u), atol=1e-4)


def test_booleans_are_two_segments(rows):
    ica = LinearICA(method="joint-diagonalization", random_state=0).fit(rows.X, u=rows.u == 0)
    assert ica.auxiliary_.segment_names() == ["False", "True"]


@pytest.mark.slow
def test_a_flow_takes_labels_by_name(rows, fitted):
    flow = QUICK["flow"](validation_fraction=0).fit(rows.X, u=NAMES[rows.u])
    other = QUICK["flow"](validation_fraction=0).fit(
        rows.X, u=np.unique(NAMES[rows.u], return_inverse=True)[1]
    )
    np.testing.assert_array_equal(flow.transform(rows.X), other.transform(rows.X))
    assert flow.score(rows.X, u=NAMES[rows.u]) == other.score(
        rows.X, u=np.unique(NAMES[rows.u], return_inverse=True)[1]
    )


@pytest.fixture(scope="module")
def continuous(rows):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"t": rows.u + rng.uniform(-0.4, 0.4, 180), "state": NAMES[rows.u]})
    return frame, QUICK["flow"](max_iter=150, hidden_sizes=()).fit(rows.X, u=frame)


def test_a_continuous_u_modulates_the_prior_through_a_network(continuous, rows):
    frame, flow = continuous
    assert flow.auxiliary_.kind == "continuous"
    given = flow.score_samples(rows.X, u=frame)
    np.testing.assert_array_equal(flow.score_samples(rows.X, u=pl.from_pandas(frame)), given)
    moved = flow.score_samples(rows.X, u=frame.iloc[::-1].reset_index(drop=True))
    assert given.mean() > moved.mean(), "the own u explains a row better than another's"


def test_without_u_a_continuous_fit_averages_over_the_fitted_rows(continuous, rows):
    frame, flow = continuous
    X = rows.X[:5]
    own = frame.iloc[flow.fit_rows_]
    given = np.array(
        [flow.score_samples(X, u=pd.concat([own.iloc[[i]]] * 5, ignore_index=True)) for i in range(len(own))]
    )
    np.testing.assert_allclose(flow.score_samples(X), np.log(np.exp(given).mean(0)), atol=1e-4)
    # Draws take u from the same rows.
    _, S = flow.sample(4000, random_state=0)
    assert np.isfinite(S).all()
    np.testing.assert_allclose(S.mean(0), 0, atol=0.25)


# Densities, inverses, draws ---------------------------------------------------------------------------


@each_exact
def test_the_score_is_the_log_density_by_the_jacobian_of_transform(name, fitted, rows):
    """Change of variables with a Jacobian by automatic differentiation, and the prior's own moments."""
    estimator = fitted(name)
    X, u = rows.X[:6], rows.u[:6]
    model, whitening = estimator.model_, estimator.whitening_
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64) if eqx.is_inexact_array(a) else a, model)
        to_scores = whitening.rotation / np.sqrt(whitening.eigenvalues) / whitening.scale[:, None]

        def latents(x):
            return wide.latents(((x - whitening.center) @ to_scores)[None])[0][0]

        jacobian = np.asarray(jax.vmap(jax.jacfwd(latents))(jnp.asarray(X)))
        z = np.asarray(jax.vmap(latents)(jnp.asarray(X)))
    own = estimator.fit_rows_
    all_scores = (rows.X - whitening.center) @ to_scores
    z_all = np.asarray(
        eqx.filter_jit(lambda m, x: m.latents(x)[0])(model, all_scores.astype(np.float32)), np.float64
    )
    expected = np.linalg.slogdet(jacobian)[1]
    power = np.asarray(getattr(model.prior.family, "power", 2.0), np.float64)
    centre = np.stack([z_all[own][rows.u[own] == segment].mean(0) for segment in range(3)])
    spread = np.abs(z_all[own] - centre[rows.u[own]]) ** power
    if np.ndim(power) == 0:  # Gaussians pool mean squares, not deviations
        spread = z_all[own] ** 2
    for segment in range(3):
        # The prior of a segment: averages of its rows, shrunk toward all with the weight of one row.
        mine = rows.u[own] == segment
        w = mine.sum() / (mine.sum() + 1)
        first = w * centre[segment] + (1 - w) * z_all[own].mean(0)
        second = w * spread[mine].mean(0) + (1 - w) * spread.mean(0)
        if np.ndim(power) == 0:
            second = second - first**2
        scale = (power * second) ** (1 / power)
        here = u == segment
        expected[here] += stats.gennorm.logpdf(z[here], power, first, scale).sum(1)
    np.testing.assert_allclose(estimator.score_samples(X, u=u), expected, atol=5e-3)


@each_exact
def test_the_density_integrates_to_one_in_the_users_units(name, fitted, rows):
    estimator = fitted(name)
    center, scale = rows.X.mean(0), rows.X.std(0)
    side = np.linspace(-9, 9, 300)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2) * scale + center
    area = (side[1] - side[0]) ** 2 * scale.prod()
    for u in (None, np.full(len(grid), 1)):
        assert np.exp(estimator.score_samples(grid, u=u)).sum() * area == pytest.approx(1, abs=0.02)


@each_density
def test_score_is_the_mean_of_rows_weighted_if_asked(name, fitted, rows):
    estimator = fitted(name)
    each_row = estimator.score_samples(rows.X, u=rows.u)
    assert estimator.score(rows.X, u=rows.u) == pytest.approx(each_row.mean())
    # y stands for u only where u is needed; see tests/test_linear_ica.py for the others.
    as_y = rows.u if estimator._requires_u else None
    assert estimator.score(rows.X, rows.u) == pytest.approx(estimator.score(rows.X, u=as_y))
    weight = np.random.default_rng(0).uniform(0, 1, 180)
    weighted = estimator.score(rows.X, u=rows.u, sample_weight=weight)
    assert weighted == pytest.approx((each_row * weight).sum() / weight.sum())


@each_exact
def test_log_likelihood_has_a_standard_error_and_says_what_it_is(name, fitted, rows):
    result = fitted(name).log_likelihood(rows.X, u=rows.u)
    each_row = fitted(name).score_samples(rows.X, u=rows.u)
    assert result.kind == "exact"
    assert result.value == pytest.approx(each_row.mean())
    assert result.standard_error == pytest.approx(stats.sem(each_row))
    with pytest.raises(ValueError, match="method must be"):
        fitted(name).log_likelihood(rows.X, u=rows.u, method="guess")


@each_exact
def test_the_posterior_of_a_noiseless_model_is_a_point(name, fitted, rows):
    q = fitted(name).posterior(rows.X, u=rows.u)
    S = fitted(name).transform(rows.X)
    np.testing.assert_array_equal(q.mean, S)
    assert (q.std == 0).all()
    np.testing.assert_array_equal(q.sample(3, random_state=0), np.broadcast_to(S, (3, *S.shape)))


@each_exact
def test_inverse_transform_undoes_transform(name, fitted, rows):
    back = fitted(name).inverse_transform(fitted(name).transform(rows.X))
    np.testing.assert_allclose(back, rows.X, atol=1e-3)


@each_exact
def test_draws_match_their_sources_and_the_data(name, fitted, rows):
    estimator = fitted(name)
    X, S = estimator.sample(500, random_state=0)
    np.testing.assert_allclose(estimator.transform(X), S, atol=5e-3)
    again, _ = estimator.sample(500, random_state=0)
    np.testing.assert_array_equal(X, again)
    assert not np.array_equal(X, estimator.sample(500, random_state=1)[0])
    given, _ = estimator.sample(u=np.repeat([0, 1, 2], 500), random_state=0)
    assert given.shape == (1500, 2)
    for segment in range(3):
        own = rows.X[rows.u == segment]
        error = np.abs(given[500 * segment :][:500].mean(0) - own.mean(0)) / own.std(0)
        assert (error < 0.5).all()


@each
def test_a_row_is_transformed_the_same_in_any_company(name, fitted, rows):
    S = fitted(name).transform(rows.X)
    order = np.random.default_rng(0).permutation(180)
    np.testing.assert_array_equal(fitted(name).transform(rows.X[order]), S[order])
    np.testing.assert_array_equal(fitted(name).transform(rows.X[17:18]), S[17:18])
    many = np.tile(rows.X, (8, 1))  # 1440 rows: blocks of the larger size
    np.testing.assert_allclose(fitted(name).transform(many)[:180], S, atol=1e-5)


@each
def test_results_come_in_the_type_of_the_data(name, fitted, rows):
    S = fitted(name).transform(rows.X.astype(np.float32))
    assert S.dtype == np.float32
    np.testing.assert_allclose(S, fitted(name).transform(rows.X), atol=1e-4)


# Options ---------------------------------------------------------------------------------------------


@each_exact
def test_fewer_components_than_columns(name):
    made = make_rows(n_columns=3)
    estimator = QUICK[name](n_components=2).fit(made.X, u=made.u)
    S = estimator.transform(made.X)
    assert S.shape == (180, 2)
    back = estimator.inverse_transform(S)
    # The reconstruction is that of the leading two principal components of the standardised columns.
    own = made.X[estimator.fit_rows_]
    mean, sd = own.mean(0), own.std(0)
    _, _, V = np.linalg.svd((own - mean) / sd, full_matrices=False)
    expected = ((made.X - mean) / sd) @ V[:2].T @ V[:2] * sd + mean
    np.testing.assert_allclose(back, expected, atol=5e-3)
    assert np.isfinite(estimator.score(made.X, u=made.u))


@pytest.mark.slow
@each
def test_no_validation_fits_on_every_row(name, rows):
    estimator = QUICK[name](validation_fraction=0).fit(rows.X, u=rows.u)
    assert len(estimator.held_out_rows_) == 0
    np.testing.assert_allclose(estimator.transform(rows.X, u=rows.u).std(0), 1, atol=1e-4)


def test_no_hidden_layers_is_a_linear_map_with_the_best_likelihood(rows):
    flow = FlowICA(hidden_sizes=(), max_iter=300, n_restarts=2, validation_fraction=0, random_state=0)
    flow.fit(rows.X, u=rows.u)
    assert flow.n_layers_ == 1
    S = flow.transform(rows.X)
    design = np.column_stack([rows.X, np.ones(180)])
    np.testing.assert_allclose(design @ np.linalg.lstsq(design, S)[0], S, atol=1e-4)

    def minus_log_likelihood(w):
        W = w.reshape(2, 2)
        z = rows.X @ W.T
        variance = np.stack([z[rows.u == s].var(0) for s in range(3)])
        return 0.5 * np.log(2 * np.pi * np.e * variance).sum(1).mean() - np.linalg.slogdet(W)[1]

    starts = np.random.default_rng(0).standard_normal((8, 4))
    best = min(optimize.minimize(minus_log_likelihood, w).fun for w in starts)
    loss = flow.history_["loss"][-1] + np.log(flow.whitening_.scale).sum()
    loss += 0.5 * np.log(flow.whitening_.eigenvalues).sum()
    assert loss == pytest.approx(best, abs=2e-3)


@pytest.mark.slow
def test_hidden_sizes_count_layers(rows):
    flow = FlowICA(hidden_sizes=(2, 2), max_iter=20, n_restarts=1, random_state=0).fit(rows.X, u=rows.u)
    assert flow.n_layers_ == flow.model_.demixer.n_layers == 3
    assert list(dict.fromkeys(flow.history_["stage"])) == ["2 layers", "3 layers", "polish"]


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["gaussian-scale", "laplace"])
def test_other_priors_are_fitted(prior, rows):
    flow = QUICK["flow"](prior=prior, hidden_sizes=(), validation_fraction=0).fit(rows.X, u=rows.u)
    z = np.asarray(eqx.filter_jit(lambda m, x: m.latents(x))(
        flow.model_, flow.whitening_.scores(rows.X).astype(np.float32))[0])  # fmt: skip
    raw = flow.model_.prior.parts()[0]
    _, variance = flow.model_.family.mean_and_variance(raw)
    statistic, floor = (z**2, 1e-5) if prior == "gaussian-scale" else (np.abs(z), 1e-5**0.5)
    for segment in range(3):
        # Moments of the segment's rows, shrunk toward all with the weight of one row.
        own = 60 / 61 * statistic[rows.u == segment].mean(0) + 1 / 61 * statistic.mean(0) + floor
        expected = own if prior == "gaussian-scale" else 2 * own**2
        np.testing.assert_allclose(variance[segment], expected, rtol=2e-3)


@pytest.mark.slow
@each_cheap
def test_double_precision_is_used_throughout_and_leaves_no_trace(name, rows):
    before = jax.config.read("jax_enable_x64")
    options = {"hidden_sizes": ()} if name in ("flow", "ivae", "vae") else {}
    estimator = QUICK[name](precision="float64", **options).fit(rows.X, u=rows.u)
    assert jax.config.read("jax_enable_x64") == before
    inexact = [
        a for a in jax.tree.leaves(estimator.model_) if np.issubdtype(np.asarray(a).dtype, np.floating)
    ]
    assert {np.asarray(a).dtype for a in inexact} == {np.dtype(np.float64)}
    if name in EXACT:
        back = estimator.inverse_transform(estimator.transform(rows.X))
        np.testing.assert_allclose(back, rows.X, atol=1e-8)


def test_a_sequence_holds_out_blocks(rows):
    order = np.argsort(rows.u, kind="stable")
    X, u = rows.X[order], rows.u[order]
    ica = LinearICA(method="joint-diagonalization", random_state=0).fit(X, u=u, sequence=np.zeros(180))
    for segment in range(3):
        block = np.sort(ica.held_out_rows_[u[ica.held_out_rows_] == segment])
        assert np.diff(block).tolist() == [1] * 5


def test_callbacks_see_progress_and_can_stop(rows):
    seen = []

    def stop(progress):
        seen.append(progress)
        return True

    flow = QUICK["flow"](callbacks=[stop]).fit(rows.X, u=rows.u)
    assert len(seen) == 1
    assert flow.status_ is identica.errors.Status.STOPPED
    assert np.isfinite(flow.score(rows.X, u=rows.u))


def test_a_random_state_draws_and_keeps_the_seed(rows):
    one = LinearICA(random_state=np.random.RandomState(5)).fit(rows.X)
    again = LinearICA(random_state=one.seed_).fit(rows.X)
    np.testing.assert_array_equal(one.transform(rows.X), again.transform(rows.X))
    assert LinearICA().fit(rows.X).seed_ != LinearICA().fit(rows.X).seed_
