"""What a report says of a fitted flow: the effect of u, the shape of sources, and whether u was of any use."""

import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import identica
from identica.conditionals import ModulatedPrior, Table
from identica.errors import DataWarning
from identica.estimators.exact import clear_effects, effect_of_u
from identica.families import GaussianScale, PowerLocationScale
from identica.networks.coupling import CouplingStack, RefinedNetwork
from identica.networks.invertible import AffineMap, InvertibleNetwork
from identica.report import learned, starts, statements
from identica.report.baseline import held_out_scores

SMALL = {"hidden_sizes": (2,), "max_iter": 300, "n_restarts": 2, "random_state": 0}


def gaussian_prior(scales) -> ModulatedPrior:
    """N(0, scale²) of one component in each segment."""
    family = GaussianScale()
    natural = np.asarray([[[-0.5 / scale**2]] for scale in scales], np.float32)
    return ModulatedPrior(family, Table(np.asarray(family.raw_from_natural(natural)), np.zeros(len(scales))))


def test_effect_of_u_is_the_distance_between_distributions():
    rng = np.random.default_rng(0)
    u = rng.permutation(np.repeat([0, 1], 2000)).astype(np.int32)
    z = (rng.standard_normal(4000) * np.array([1.0, 3.0])[u]).astype(np.float32)[:, None]
    effect, noise = effect_of_u(gaussian_prior([1.0, 3.0]), z, u, rng)
    # Densities cross at ±t; half of all pairs of rows share a segment, and then their distance is 0.
    t = np.sqrt(2 * np.log(3) / (1 - 1 / 9))
    distance = 2 * (norm.cdf(t) - norm.cdf(t / 3))
    assert effect[0] == pytest.approx(distance / 2, abs=0.02)
    assert clear_effects(effect, noise).all()
    # The same prior where u says nothing of z: own values win as often as others.
    effect, noise = effect_of_u(gaussian_prior([1.0, 3.0]), rng.permutation(z), u, rng)
    assert abs(effect[0]) < 3 * noise[0] < 0.06


def test_a_sum_may_be_clear_where_no_part_is():
    noise = np.full(4, 0.1)
    assert clear_effects(np.array([0.5, 0.1, 0.0, 0.0]), noise).tolist() == [True, False, False, False]
    assert clear_effects(np.array([0.3, 0.2, 0.2, 0.2]), noise).all()  # 0.9 = 4.5 deviations of the sum
    assert not clear_effects(np.array([0.3, 0.2, 0.2, 0.0]), noise).any()


def test_findings_say_where_u_acts():
    names = ["a", "b"]
    assert learned.effect_of_u(None, names) is None
    found = [
        learned.effect_of_u(np.array([effect, [0.01, 0.01]]), names)
        for effect in ([0.5, 0.2], [0.5, 0.01], [0.01, 0.02])
    ]
    assert [f.verdict for f in found] == ["good", "warning", "bad"]
    assert "does not clearly change b" in found[1].text
    assert "nothing nonlinear can be recovered" in found[2].text


@pytest.mark.parametrize("stationary", [True, False])
def test_flow_ica_warns_where_u_carries_no_information(stationary):
    data = identica.simulate("figure1", seed=1, n_segments=8, n_per_segment=200)
    # Shuffled among all rows, u knows nothing of any of them.
    u = np.random.default_rng(0).permutation(data.u) if stationary else data.u
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ica = identica.FlowICA(**SMALL).fit(data.X, u=u)
    about_u = [w for w in said if issubclass(w.category, DataWarning) and "tells nothing" in str(w.message)]
    assert len(about_u) == stationary
    finding = learned.effect_of_u(ica.effect_of_u_, ["a", "b"])
    assert finding.verdict == ("bad" if stationary else "good")


def test_rows_that_were_not_held_out_judge_no_u():
    data = identica.simulate("linear", seed=0, n_segments=5, n_per_segment=50)
    ica = identica.LinearICA(method="joint-diagonalization", validation_fraction=0, random_state=0)
    assert ica.fit(data.X, u=data.u).effect_of_u_ is None


@pytest.mark.slow
def test_a_linear_mixture_needs_no_nonlinear_model():
    rng = np.random.default_rng(1)
    u = np.repeat(np.arange(10), 150)
    S = rng.laplace(size=(1500, 2)) * rng.uniform(0.3, 2.0, (10, 2))[u]
    X = pd.DataFrame(S @ rng.standard_normal((2, 2)))
    ica = identica.FlowICA(**SMALL).fit(X, u=u)
    scores = held_out_scores(ica, X, u)
    gain = statements.held_out(scores, "FlowICA")[1]
    assert abs(scores["difference"]["mean"]) < 2 * scores["difference"]["standard_error"]
    assert gain.verdict == "warning"
    assert "do not call for a nonlinear model" in gain.text


@pytest.mark.parametrize("kept", [True, False])
def test_learned_shapes_are_told_in_the_order_of_sources(kept):
    family = PowerLocationScale(np.log(np.array([1.0, 2.0, 5.0]) / 2))
    network = InvertibleNetwork.random(3, 2, key=jax.random.key(0))
    refined = RefinedNetwork(network, CouplingStack.random(3, 2, 4, key=jax.random.key(1))).using(kept)
    orientation = AffineMap(np.array([[0, 0, -2.0], [0.5, 0, 0], [0, 1, 0]]), np.zeros(3))
    model = SimpleNamespace(prior=SimpleNamespace(family=family), demixer=refined, orientation=orientation)
    text = learned.shape(model, ["x", "y", "z"]).text
    powers = np.asarray(family.power)
    assert f"x {powers[2]:.1f} (light tails" in text
    assert "y 1.0 (heavy tails, near Laplace)" in text
    assert "z 2.0 (near Gaussian)" in text
    assert ("were kept" in text, "dropped" in text) == (kept, not kept)
    model.prior = SimpleNamespace(family=GaussianScale())
    assert learned.shape(model, ["x", "y", "z"]) is None


def test_restarts_grown_from_one_network_do_not_count_as_agreement():
    def finding(*origins):
        held_out = [1.0, 1.01, 3.0][: len(origins)]
        return starts.restarts(
            [{"held_out": h, "origin": o, "status": ""} for h, o in zip(held_out, origins, strict=True)], 2
        )

    assert finding(0, 1, 2).verdict == "good"
    same = finding(1, 1, 2)
    assert (same.value, same.verdict) == ("2 of 3", "warning")
    assert "raise n_restarts (3 here)" in same.text


def test_findings_say_whether_rows_speak_for_noise():
    assert learned.noise(None, 5) is None
    clear, none = (learned.noise(np.array(g), 5) for g in ([0.04, 0.2, 0.02], [0.01, -0.3, 0.02]))
    assert clear is not None
    assert none is not None
    assert (clear.verdict, none.verdict) == ("warning", "good")
    assert "4 % of each column" in clear.text
    assert "IVAE" in clear.text
    assert clear.interval == pytest.approx((0.16, 0.24))
