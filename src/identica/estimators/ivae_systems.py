"""What the stages of `IVAE` do to systems between trainings, and ask of them."""

import numpy as np

from identica.compilation import compiled
from identica.conditionals import ModulatedPrior, ProductOfExperts, averaged_statistics
from identica.data import Dataset
from identica.families import ExponentialFamily
from identica.models import VariationalModel
from identica.objectives.exact_likelihood import shrink
from identica.training.stage import Prepare, unchanged
from identica.typing import Array, FloatArray, Key


@compiled
def segment_table(
    family: ExponentialFamily,
    mean: Array,
    variance: Array,
    codes: Array,
    weight: Array | None,
    n_segments: int,
) -> ModulatedPrior:
    """The prior of latents with these means and variances (N, n) in every row, each segment's own."""
    averages, counts = averaged_statistics(family, mean, variance, codes, n_segments, weight)
    return ModulatedPrior.table(family, shrink(averages, counts), counts)


def with_mean_part(encoder: ProductOfExperts, linear: FloatArray) -> ProductOfExperts:
    """The encoder with the linear part of its mean set to `linear` (r, n)."""
    network, n = encoder.network, encoder.n_components
    old = network.weights[-1] if network.shortcut is None else network.shortcut
    part = np.zeros_like(old)
    part[:, :n] = linear
    network = network.with_linear_part(part, network.biases[-1])  # type: ignore[arg-type]
    return ProductOfExperts(encoder.features, network, encoder.hold, n)


@compiled
def encoder_mean(encoder: ProductOfExperts, x: Array) -> Array:
    """What the encoder says of rows before the prior is asked, (B, n)."""
    return encoder.mean(x)


@compiled
def posterior_moments(system: VariationalModel, x: Array, u: Array) -> tuple[Array, Array]:
    """Means (B, n) and covariances (B, n, n) of posteriors."""
    q = system.posterior(x, u)
    return q.mean, q.covariance_matrix  # type: ignore[return-value]


def posterior_mean(system: VariationalModel, rows: Dataset) -> Array:
    """By which starts are compared (`Stage.sources`)."""
    return system.posterior(rows.x, rows.u).mean


def begin_with(system: VariationalModel) -> Prepare:
    """``prepare`` of a system that was trained elsewhere."""
    return lambda *_: system


def released(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
    """``prepare`` that lets the mean of the encoder go."""
    system = unchanged(system, data, key)
    return VariationalModel(system.model, system.encoder.holding(False))  # type: ignore[attr-defined]


def real_rows(data: Dataset) -> int:
    """Rows without the padding at the end."""
    return data.n_rows if data.weight is None else int(np.asarray(data.weight > 0).sum())
