"""`TCL`: nonlinear ICA by telling from which segment a row came."""

from typing import Any

import numpy as np

from identica.estimators.base import Problem
from identica.estimators.contrast_stages import ContrastPlan, segment_critic, statistics_of
from identica.estimators.contrastive import ContrastiveEstimator
from identica.estimators.ivae_start import linear_start, unmixing_of
from identica.objectives.contrastive import AllSegments, Pairing
from identica.typing import FloatArray


class TCL(ContrastiveEstimator):
    """Time-contrastive learning: features that tell in which segment a row was observed.

    If sources are independent given the segment, with densities of an exponential family, then the
    statistics of features that classify segments by a softmax linear in them are those of the sources up
    to a linear map. Joint diagonalisation of the features' covariances within segments resolves that
    map. X may not be noisy. Signs of sources are not in the guarantee where the statistics are even.

    Assumes that segments differ in the distribution of every source. If held-out rows show no difference
    at all, a warning says so. No likelihood, draws or inverse exist.

    Parameters
    ----------
    n_components : int or None
        Number of sources; None takes as many as X has linearly independent columns.
    critic : {"gaussian", "laplace", "gaussian-scale", "learned"}
        Statistics of each feature in which the softmax is linear: h and h², |h| (as published), h², or
        learned functions of h (sources of any family; curves on sources are then not resolved).
    hidden_sizes : tuple of int
        Units of each hidden layer of the feature network; ``()`` is a linear map.
    activation : str
        ``"leaky_relu"``, or a smooth one such as ``"squareplus"`` or ``"silu"``.
    max_iter : int
        Optimiser steps of each restart.
    n_restarts : int
        Starts, from linear sources turned by random rotations; the best by held-out cross-entropy is kept.
    validation_fraction : float
        Share of rows, drawn within segments, held out for choosing; 0 fits on every row.
    outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `FlowICA`.

    Attributes
    ----------
    model_ : ContrastiveModel
    context_effect_ : tuple of float or None
        By how much held-out rows go better with their own segment than with another row's (0 to 1), and its
        standard deviation by chance; None with fewer than 50 held-out rows.
    converged_, status_, history_, restarts_, fit_rows_, held_out_rows_, gross_rows_, seed_, n_iter_
        As in `FlowICA`; objectives are cross-entropies, nats per row.

    References
    ----------
    Hyvärinen, Morioka (2016), Unsupervised feature extraction by time-contrastive learning and nonlinear
    ICA, Theorem 1. Pham (2001), Joint approximate diagonalization of positive definite Hermitian matrices.

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("figure1", seed=0, n_per_segment=100)
    >>> tcl = identica.TCL(n_components=2, max_iter=100, n_restarts=2, random_state=0)
    >>> tcl.fit(data.X, u=data.u).transform(data.X).shape
    (500, 2)
    """

    _context = "their own segment"
    _violated = (
        "Sources seem stationary: segments do not differ in distribution, which is all that time-contrastive "
        "learning rests on, so these sources mean nothing. Try another u, longer or other segments, or PCL where "
        "rows are a time series with autocorrelation"
    )

    def __init__(
        self,
        n_components: int | None = None,
        *,
        critic: str = "gaussian",
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "leaky_relu",
        max_iter: int = 12000,
        n_restarts: int = 8,
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

        return ContrastPlan(
            pairing=AllSegments(start.n_segments),
            features=start.features,
            unmixing=start.unmixing,
            critic=segment_critic(family, start.n_segments, start.codes),
            turn=diagonalised,
            demix=diagonalised,
            hidden_sizes=tuple(self.hidden_sizes),
            activation=self.activation,
            max_iter=self.max_iter,
            restarts=self.n_restarts,
            n_rows=problem.n_rows,
            quantizer=start.quantizer,
        )

    def _pairing(self) -> Pairing:
        return AllSegments(len(self.model_.critic.parameters.log_shares))  # type: ignore[union-attr]
