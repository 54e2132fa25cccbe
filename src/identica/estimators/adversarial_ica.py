"""`AdversarialICA`: an autoencoder whose latents a discriminator must not tell from shuffled ones; a control."""

from typing import Any

import numpy as np

from identica.estimators.base import Problem
from identica.estimators.controls import ControlEstimator
from identica.estimators.validation import check_positive
from identica.models import AutoencoderModel
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.objectives.adversarial import (
    AdversarialReconstruction,
    discriminator_accuracy,
)
from identica.random import named_key
from identica.training.stage import Objective
from identica.typing import FloatArray, Key


class AdversarialICA(ControlEstimator):
    """Independent features by an adversary: an autoencoder against a discriminator of shuffled latents.

    The discriminator tells rows of latents from rows whose columns were shuffled independently of each other;
    the encoder makes that hard, so that latents become independent, and the decoder sees to it that they
    still hold what x holds.

    A control: **its latents are not identifiable.** Independence alone does not determine nonlinear sources:
    any rows can be mapped to independent latents in endlessly many ways (Darmois; Hyvärinen and Pajunen, 1999),
    and sources that depend on u are not even independent over all rows. It is here to be beaten by `IVAE`,
    `FlowICA` and `TCL`. u is accepted and ignored. No likelihood and no draws exist; `score` is minus the
    error of reconstruction.

    Held-out rows choose among restarts by the error plus ``independence`` times an untrained measure, the mean
    squared distance correlation of pairs of latents.

    Parameters
    ----------
    n_components : int or None
        Number of latents; None takes as many as X has linearly independent columns.
    independence : float
        Weight of the discriminator's game against the squared error per standardised column.
    hidden_sizes : tuple of int
        Units of each hidden layer of the encoder, of the decoder and of the discriminator.
    activation : {"leaky_relu", "silu", "tanh", "relu", "softplus", "squareplus"}
    max_iter : int
        Optimiser steps; encoder, decoder and discriminator move in each.
    n_restarts : int
        Starts, from principal components turned by random rotations.
    validation_fraction, outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `IVAE`.

    Attributes
    ----------
    model_ : AutoencoderModel
    discriminator_accuracy_ : float
        Share of held-out rows (fitted ones if none are held out), as they are and shuffled, that the
        discriminator recognises; .5 is chance.
    reconstruction_error_, dependence_
        As in `Autoencoder`.
    converged_, status_, history_, restarts_, fit_rows_, held_out_rows_, gross_rows_, seed_, n_iter_
        As in `IVAE`; losses are the squared error plus the discriminator's cross-entropy, held-out values as
        said above.

    References
    ----------
    Brakel, Bengio (2017), Learning independent features with adversarial nets for non-linear
    ICA. Székely, Rizzo, Bakirov (2007), Measuring and testing dependence by correlation of distances.
    Hyvärinen, Pajunen (1999), Nonlinear independent component analysis: existence and uniqueness results.

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("figure1", seed=0, n_per_segment=100)
    >>> control = identica.AdversarialICA(n_components=2, max_iter=100, n_restarts=2, random_state=0)
    >>> control.fit(data.X).transform(data.X).shape
    (500, 2)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        independence: float = 0.1,
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
        self.independence = independence
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

    def _objective(self) -> Objective:
        return AdversarialReconstruction(self._independence())

    def _independence(self) -> float:
        return check_positive("independence", self.independence)

    def _discriminator(self, n: int, key: Key) -> MultilayerPerceptron:
        return MultilayerPerceptron.random(
            n, tuple(self.hidden_sizes), 1, activation=self.activation, shortcut=True, last_scale=0.1, key=key
        )

    def _adopt(self, system: AutoencoderModel, problem: Problem, X: FloatArray) -> None:
        super()._adopt(system, problem, X)
        judged = problem.data if problem.held_out is None else problem.held_out
        key = named_key(self.seed_, "discriminator accuracy")
        accuracy = discriminator_accuracy(system, system.encoder(judged.x), judged.weight, key)
        self.discriminator_accuracy_ = float(np.asarray(accuracy))
