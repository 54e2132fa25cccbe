"""Whether restarts of equal likelihood have found the same sources: measured, and told."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import identica
from identica.data import Dataset
from identica.metrics import match_components
from identica.report.starts import OTHER_SOURCES, SAME_SOURCES, sources_of_restarts
from identica.training.agreement import ROWS, agreements
from identica.training.population import stack


class Unmixing(eqx.Module):
    """Sources are a linear map of the rows."""

    matrix: np.ndarray


def sources(system, rows):
    return rows.x @ system.matrix.T


def found(matrices, rows, best=0):
    return agreements(*stack([Unmixing(np.asarray(m, float)) for m in matrices]), best, rows, sources)


@pytest.mark.parametrize("best", [0, 2])
def test_agreement_is_the_matched_correlation_within_u(best):
    rng = np.random.default_rng(1)
    u = rng.integers(0, 4, 600)
    x = rng.standard_normal((600, 3)) + 5.0 * rng.standard_normal((4, 3))[u]
    matrices = [np.eye(3), np.diag([-2.0, 1.0, 3.0])[[2, 0, 1]], rng.standard_normal((3, 3))]
    told = found(matrices, Dataset(x.astype(np.float32), u), best)
    for matrix, one in zip(matrices, told, strict=True):
        expected = match_components(x @ matrices[best].T, x @ matrix.T, within=u).correlations
        assert one["agreement"] == pytest.approx(expected.mean(), abs=1e-4)
        assert one["least_agreement"] == pytest.approx(expected.min(), abs=1e-4)
    # Means that move with u would make a rotation look like agreement.
    pooled = match_components(x @ matrices[best].T, x @ matrices[2 - best].T).mean
    assert told[2 - best]["agreement"] < pooled - 0.05


def test_padded_rows_and_rows_beyond_the_first_do_not_count():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((ROWS + 500, 2)).astype(np.float32)
    turned = [np.eye(2), [[0.8, 0.6], [-0.6, 0.8]]]
    whole, head = found(turned, Dataset(x)), found(turned, Dataset(x[:ROWS]))
    assert whole == head
    weight = np.ones(100, np.float32)
    weight[60:] = 0.0
    junk = np.where(weight[:, None] > 0, x[:100], 1e3).astype(np.float32)
    padded = found(turned, Dataset(junk, None, None, weight))
    for one, other in zip(padded, found(turned, Dataset(x[:60])), strict=True):
        assert one["agreement"] == pytest.approx(other["agreement"], abs=1e-6)


def test_a_restart_without_finite_sources_has_no_agreement():
    x = np.random.default_rng(3).standard_normal((50, 2)).astype(np.float32)
    told = found([np.eye(2), np.full((2, 2), np.nan)], Dataset(x))
    assert told[0]["agreement"] == pytest.approx(1.0)
    assert told[1] == {"agreement": None, "least_agreement": None}
    assert all(one["agreement"] is None for one in found([np.full((2, 2), np.nan), np.eye(2)], Dataset(x)))


def test_a_continuous_u_is_not_centred_out():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((80, 2)).astype(np.float32)
    u = jnp.asarray(rng.standard_normal((80, 1)))
    turn = [[0.8, 0.6], [-0.6, 0.8]]
    told = found([np.eye(2), turn], Dataset(x, u))[1]
    assert told["agreement"] == pytest.approx(match_components(x, x @ np.asarray(turn).T).mean, abs=1e-5)


def record(held_out, agreement, origin=None, least=None):
    least = agreement if least is None else least
    return {"held_out": held_out, "agreement": agreement, "least_agreement": least, "origin": origin}


@pytest.mark.parametrize(
    ("others", "verdict", "said"),
    [
        ([record(1.01, SAME_SOURCES, 1)], "good", "The other start found the same sources"),
        ([record(1.01, SAME_SOURCES, 0)], "info", "same first network"),
        ([record(1.5, 0.99, 1)], "good", "the same sources"),
        ([record(1.005, SAME_SOURCES - 0.01, 1)], "warning", "partly other sources"),
        ([record(1.005, OTHER_SOURCES - 0.01, 1, 0.3), record(1.0, 0.99, 2)], "bad", "of one source 0.30"),
        # One that explains rows worse does not count against the best.
        ([record(1.01, 0.7, 1), record(1.02, 0.97, 2)], "good", "1 of 2 other starts found others"),
        ([record(1.5, 0.7, 1), record(1.6, 0.4, 2)], "warning", "No other start found the sources"),
    ],
)
def test_findings_on_the_sources_of_other_starts(others, verdict, said):
    finding = sources_of_restarts([record(1.0, 1.0, 0), *others, record(1.0, None, 5)], 2, 10**5)
    assert finding is not None
    assert finding.verdict == verdict
    assert said in finding.text


def test_a_difference_that_few_rows_cannot_tell_does_not_choose():
    records = [record(1.0, 1.0, 0), record(1.03, 0.7, 1), record(1.05, 0.97, 2)]
    verdicts = [sources_of_restarts(records, 2, n_rows).verdict for n_rows in (300, 5000)]
    assert verdicts == ["bad", "good"]


def test_nothing_is_said_where_sources_were_not_compared():
    assert sources_of_restarts([], 2, 9) is None
    assert sources_of_restarts([{"held_out": 1.0}, {"held_out": 1.0}], 2, 9) is None
    assert sources_of_restarts([record(1.0, 1.0), record(1.0, None)], 2, 9) is None


@pytest.fixture(scope="module")
def mixture():
    return identica.simulate("iflow", seed=3, n_components=3, n_segments=10, n_per_segment=150, layers=1)


def test_starts_agree_where_u_tells_and_not_where_it_is_silent(mixture):
    options = {"max_iter": 400, "n_restarts": 4, "random_state": 0, "prior": "gaussian"}
    told = identica.FlowICA(3, **options).fit(mixture.X, u=mixture.u)
    assert sources_of_restarts(told.restarts_, 3, 150).verdict == "good"
    silent = np.random.default_rng(0).permutation(mixture.u)
    with pytest.warns(identica.errors.DataWarning, match="u tells nothing"):
        blind = identica.FlowICA(3, **options).fit(mixture.X, u=silent)
    assert min(r["agreement"] for r in blind.restarts_) < SAME_SOURCES


def test_noisy_starts_are_compared_by_their_posterior_means():
    data = identica.simulate(
        "iflow", seed=3, n_components=2, n_features=4, n_segments=10, n_per_segment=60, layers=1, noise=0.1
    )
    est = identica.IVAE(2, max_iter=150, n_restarts=3, random_state=0).fit(data.X, u=data.u)
    assert len(est.restarts_) > 1
    values = [r["agreement"] for r in est.restarts_]
    assert max(values) == pytest.approx(1.0, abs=1e-6)
    assert all(0.0 <= r["least_agreement"] <= r["agreement"] + 1e-12 for r in est.restarts_)
