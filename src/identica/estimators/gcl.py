"""`GCL`: nonlinear ICA by telling the u of a row from that of other rows."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from identica.estimators.base import Problem
from identica.estimators.contrast_stages import (
    EXAMPLES,
    ContrastPlan,
    network_critic,
    segment_critic,
    statistics_of,
)
from identica.estimators.contrastive import ContrastiveEstimator
from identica.estimators.ivae_start import linear_start, unmixing_of
from identica.objectives.contrastive import OtherRows, Pairing
from identica.typing import FloatArray


class GCL(ContrastiveEstimator):
    """Generalised contrastive learning: features that tell the row's own u from permuted ones.

    u may be labels or numbers, such as time. The critic Σ_i ψ_i(h_i(x), u) is a sum of learned functions of
    one feature each. If sources are independent given u, and u changes their densities in enough
    ways, features are the sources, each up to a curve of its own. Joint diagonalisation of the features'
    covariances within values (or clusters) of u resolves what training left linearly mixed.

    Assumes that u changes the distribution of every source. If held-out rows show no effect of u at all,
    a warning says so. No likelihood, draws or inverse exist.

    Parameters
    ----------
    n_components : int or None
        Number of sources; None takes as many as X has linearly independent columns.
    critic : {"learned", "gaussian", "gaussian-scale", "laplace"}
        Statistics of each feature, of which ψ_i is a combination with weights that depend on u: learned
        functions of h (sources of any family), h and h², h², or |h|.
    hidden_sizes : tuple of int
        Units of each hidden layer of the feature network; ``()`` is a linear map.
    activation : str
        ``"leaky_relu"``, or a smooth one such as ``"squareplus"`` or ``"silu"``.
    max_iter : int
        Optimiser steps of each restart.
    n_restarts : int
        Starts, from linear sources turned by random rotations; the best by held-out cross-entropy is kept.
    validation_fraction : float
        Share of rows held out for choosing; 0 fits on every row.
    outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `FlowICA`.

    Attributes
    ----------
    model_ : ContrastiveModel
    context_effect_ : tuple of float or None
        By how much held-out rows go better with their own u than with another row's (0 to 1), and its
        standard deviation by chance; None with fewer than 50 held-out rows.
    converged_, status_, history_, restarts_, fit_rows_, held_out_rows_, gross_rows_, seed_, n_iter_
        As in `FlowICA`; objectives are cross-entropies, nats per row.

    References
    ----------
    Hyvärinen, Sasaki, Turner (2019), Nonlinear ICA using auxiliary variables and generalized contrastive
    learning, Theorem 1. Ma, Collins (2018), Noise contrastive estimation and negative sampling for
    conditional models: many permuted u for each row.

    Examples
    --------
    >>> import identica, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> t = rng.uniform(size=400)
    >>> S = rng.standard_normal((400, 2)) * np.exp(np.sin(6 * t[:, None] + [0, 2]))
    >>> gcl = identica.GCL(max_iter=100, n_restarts=2, random_state=0)
    >>> gcl.fit(S @ np.array([[1, 0.5], [-0.5, 1]]), u=t).transform(S).shape
    (400, 2)
    """

    _context = "their own u"
    _violated = (
        "u seems to say nothing about X, which is all that generalised contrastive learning rests on, so these "
        "sources mean nothing. Try another u, such as conditions, recordings or time"
    )

    def __init__(
        self,
        n_components: int | None = None,
        *,
        critic: str = "learned",
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "leaky_relu",
        max_iter: int = 4000,
        n_restarts: int = 4,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float32",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
        self.critic = critic
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def _plan(self, problem: Problem) -> ContrastPlan:
        family = statistics_of("critic", self.critic)
        start = linear_start(problem)
        codes = np.asarray(start.codes(problem.data.u))

        def diagonalised(h: FloatArray) -> FloatArray:
            return unmixing_of(h, codes[: len(h)], start.n_segments)

        if problem.discrete:
            critic = segment_critic(family, start.n_segments, start.codes)
        else:
            u = np.asarray(problem.data.u)[: min(problem.n_rows, EXAMPLES)]
            critic = network_critic(family, jnp.asarray(u))
        return ContrastPlan(
            pairing=OtherRows(),
            features=start.features,
            unmixing=start.unmixing,
            critic=critic,
            turn=diagonalised,
            demix=diagonalised,
            hidden_sizes=tuple(self.hidden_sizes),
            activation=self.activation,
            max_iter=self.max_iter,
            restarts=self.n_restarts,
            n_rows=problem.n_rows,
        )

    def _pairing(self) -> Pairing:
        return OtherRows()
