"""The exact likelihood of a Gaussian mixture, and its expectation-maximisation."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.data import Dataset, mean_over_rows
from identica.models.gaussian_mixture import GaussianMixtureModel
from identica.typing import Array, Key


@dataclass(frozen=True)
class MixtureLikelihood:
    """−log p(x), nats per row; an objective and what ranks restarts at once."""

    def __call__(
        self, model: GaussianMixtureModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        """The negative mean log-likelihood of a batch, to be minimised."""
        return -mean_over_rows(model.log_prob(batch.x), batch.weight), {}


@dataclass(frozen=True)
class EvaluatedMixture:
    """The negative mean log-likelihood of the rows that rank restarts."""

    def __call__(self, model: GaussianMixtureModel, data: Dataset, rows: Dataset, key: Key) -> Array:
        return MixtureLikelihood()(model, rows, key=key)[0]


@dataclass(frozen=True)
class MixtureUpdate:
    """One step of expectation-maximisation (Bishop, 2006, section 9.2.2).

    Attributes
    ----------
    covariance : {"spherical", "diagonal", "full"}
    """

    covariance: str

    def __call__(self, model: GaussianMixtureModel, data: Dataset) -> tuple[GaussianMixtureModel, Array]:
        """The next mixture, and the negative mean log-likelihood of this one."""
        log_joint = model.log_joint(data.x)
        log_prob = jax.nn.logsumexp(log_joint, axis=1)
        responsibilities = jnp.exp(log_joint - log_prob[:, None])
        if data.weight is not None:
            responsibilities = responsibilities * data.weight[:, None]
        new = GaussianMixtureModel.from_responsibilities(
            data.x, responsibilities, covariance=self.covariance, floor=model.floor
        )
        return new, -mean_over_rows(log_prob, data.weight)
