"""The linear model that a nonlinear one has to beat: does the report say when nonlinearity is not needed?"""

import numpy as np
import pandas as pd
import pytest

import identica
from identica.report import statements
from identica.report.baseline import held_out_scores


def modulated(u_of_time, mix, n_rows=3000, seed=0):
    """Two Gaussian sources whose variance follows u, mixed linearly or not."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, n_rows)
    sd = np.exp(np.column_stack([np.sin(6 * time), np.cos(9 * time)]))
    S = rng.normal(size=(n_rows, 2)) * sd
    X = S @ np.array([[2.0, 1.0], [0.5, 1.0]])
    X = X if mix == "linear" else X + 1.5 * np.tanh(X[:, ::-1])
    return pd.DataFrame(X, columns=["x1", "x2"]), pd.Series(u_of_time(time), name="u"), S, sd


def fifteen_segments(time):
    return np.minimum(time * 15, 14).astype(int)


def time_itself(time):
    return time + 1e-6


@pytest.mark.parametrize(
    ("u_of_time", "name"),
    [
        (fifteen_segments, "joint-diagonalization"),
        pytest.param(time_itself, "maximum likelihood", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_linear_mixture_is_said_to_need_no_nonlinear_model(u_of_time, name):
    x, u, S, sd = modulated(u_of_time, "linear")
    flow = identica.FlowICA(n_restarts=2, max_iter=300, hidden_sizes=(2,), random_state=0).fit(x, u=u)
    scores = held_out_scores(flow, x, u)
    assert scores is not None
    assert scores["linear"]["name"] == f"linear ICA ({name})"
    # Near the truth, which can be written down: independent Gaussians of known variance, mixed.
    rows = flow.held_out_rows_
    truth = -0.5 * ((S / sd) ** 2 + np.log(2 * np.pi * sd**2)).sum(axis=1) - np.log(1.5)
    assert scores["linear"]["mean"] == pytest.approx(truth[rows].mean(), abs=0.1)
    assert scores["difference"]["mean"] < 2 * scores["difference"]["standard_error"]
    gain = statements.held_out(scores, "FlowICA")[1]
    assert gain.verdict in ("warning", "bad")
    assert "do not call for a nonlinear model" in gain.text or "Trust linear ICA instead" in gain.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_nonlinear_mixture_is_said_to_need_one():
    x, u, _, _ = modulated(fifteen_segments, "nonlinear")
    flow = identica.FlowICA(n_restarts=2, max_iter=600, hidden_sizes=(2, 2), random_state=0).fit(x, u=u)
    gain = statements.held_out(held_out_scores(flow, x, u), "FlowICA")[1]
    assert gain.verdict == "good"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_where_u_does_nothing_the_baseline_is_the_one_without_it():
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.standard_t(3, (2000, 2)) @ rng.normal(size=(2, 2)), columns=["x1", "x2"])
    u = pd.Series(rng.integers(0, 40, 2000), name="u")
    flow = identica.FlowICA(n_restarts=1, max_iter=50, hidden_sizes=(), random_state=0).fit(x, u=u)
    scores = held_out_scores(flow, x, u)
    assert scores is not None
    assert scores["linear"]["name"] == "linear ICA (fastica)"
