"""Doubly reparametrised gradients of the importance-weighted bound."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from identica.errors import DataError
from identica.expectations.sampling import LogWeight, Reduce, Sampled, pathwise_samples, stopped
from identica.typing import Array, Key


@dataclass(frozen=True)
class DoublyReparametrized(Sampled):
    """DReG (Tucker, Lawson, Gu, Maddison, 2019): Σ_k w̃_k² (d log w_k/dz_k)(dz_k/dφ) for the parameters φ of q.

    w̃ are the normalised weights. Replacing the score of q inside the bound by a second pathwise term
    keeps the gradient unbiased, and its signal-to-noise ratio does not fall with K. The gradient of
    everything else is Σ_k w̃_k ∇ log p(x, z_k), as usual. The log weight is written twice; compiled, its
    forward pass is one.
    """

    def __call__(self, q: dist.Distribution, log_weight: LogWeight, reduce: Reduce, *, key: Key) -> Array:
        """The reduction of log_weight over samples of q, nats (B,)."""
        z, _ = pathwise_samples(q, key, self.samples)
        frozen = stopped(q)
        shares = jax.nn.softmax(jax.lax.stop_gradient(log_weight(z, frozen.log_prob(z))), axis=0)  # type: ignore[arg-type]
        # The bound's own gradient brings w̃_k once, the scaled path of z_k the second time.
        z = _scaled_gradient(z, shares[..., None])
        return reduce(log_weight(z, frozen.log_prob(z)))  # type: ignore[arg-type]

    def check_objective(self, *, weighted: bool, analytic: bool) -> None:
        if not weighted:
            raise DataError(
                "gradient='dreg' is that of the importance-weighted bound (objective='iwae'); "
                "for objective='elbo' use gradient='stl'"
            )


@jax.custom_vjp
def _scaled_gradient(value: Array, factor: Array) -> Array:
    """``value``, whose gradient is multiplied by ``factor``."""
    return value


def _forward(value: Array, factor: Array) -> tuple[Array, Array]:
    return value, factor


def _backward(factor: Array, slope: Array) -> tuple[Array, Array]:
    return slope * factor, jnp.zeros_like(factor)


_scaled_gradient.defvjp(_forward, _backward)
