"""`Autoencoder`: reconstruction and nothing else, the simplest control."""

from typing import Any

from identica.estimators.controls import ControlEstimator
from identica.objectives.adversarial import Reconstruction
from identica.training.stage import Objective


class Autoencoder(ControlEstimator):
    """Autoencoder: n numbers per row from which its columns can be had again, with least squared error.

    A control: **its latents are not identifiable.** Whatever invertible map is put after the encoder and
    undone before the decoder changes no reconstruction, so sources found this way are one of endlessly many
    solutions. With as many components as columns nothing is learned at all: rotated principal components
    reconstruct every row already. It is here to be beaten by `IVAE`, `FlowICA` and `TCL`. u is accepted and
    ignored. No likelihood and no draws exist; `score` is minus the error.

    Parameters
    ----------
    n_components : int or None
        Number of latents; None takes as many as X has linearly independent columns.
    hidden_sizes : tuple of int
        Units of each hidden layer of the encoder and of the decoder; ``()`` spans principal components.
    activation : {"silu", "tanh", "leaky_relu", "relu", "softplus", "squareplus"}
    max_iter : int
        Optimiser steps.
    n_restarts : int
        Autoencoders trained side by side; the one with the least error of held-out rows is kept.
    validation_fraction, outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `IVAE`.

    Attributes
    ----------
    model_ : AutoencoderModel
    reconstruction_error_ : float
        Mean squared error of standardised columns of held-out rows (of fitted rows if none are held out).
    dependence_ : float
        Mean squared distance correlation between latents of at most 512 of the same rows, 0 to 1.
    converged_, status_, history_, restarts_, fit_rows_, held_out_rows_, gross_rows_, seed_, n_iter_
        As in `IVAE`; objectives are mean squared errors per standardised column.

    References
    ----------
    Hinton, Salakhutdinov (2006), Reducing the dimensionality of data with neural networks. Hyvärinen,
    Pajunen (1999), Nonlinear independent component analysis: existence and uniqueness results.

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("figure1", seed=0, n_per_segment=100)
    >>> control = identica.Autoencoder(n_components=1, max_iter=100, random_state=0).fit(data.X)
    >>> control.inverse_transform(control.transform(data.X)).shape
    (500, 2)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "silu",
        max_iter: int = 4000,
        n_restarts: int = 2,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float32",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
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
        return Reconstruction()
