"""Lower bounds of log p(x|u) from samples of the posterior: ELBO and importance weights."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from identica.compilation import compiled
from identica.data import Dataset
from identica.evaluation.pareto import pareto_k
from identica.evaluation.target import Proposal, Target, over_rows
from identica.models import VariationalModel
from identica.typing import Array, Key

_SAMPLES_AT_ONCE = 512


class Weighed(NamedTuple):
    """Estimates of log p(x|u), one per row.

    Attributes
    ----------
    value : (B,)
        Nats.
    variance : (B,)
        Of the value over repetitions with other noise, nats²; 0 where there is none.
    effective_sample_size : (B,)
        (Σw)²/Σw², between 1 and the number of weights.
    pareto_k : (B,)
        See `identica.evaluation.pareto.pareto_k`; NaN where there are no independent weights.
    """

    value: Array
    variance: Array
    effective_sample_size: Array
    pareto_k: Array


def weigh(logs: Array) -> Weighed:
    """Logarithm of the mean weight of K independent weights, from their logarithms (K,), with diagnostics."""
    count = logs.shape[0]
    shares = jax.nn.softmax(logs)
    effective = 1 / (shares**2).sum()
    # First order: Var log m̂ = Var m̂/m², which is the squared coefficient of variation over K.
    variance = jnp.maximum(count / effective - 1, 0) / max(count - 1, 1)
    value = jax.nn.logsumexp(logs) - math.log(count)
    return Weighed(value, variance, effective, pareto_k(logs))


@compiled
def importance(
    system: VariationalModel,
    x: Array,
    u: Array | None,
    keys: Array,
    count: int,
    proposal: Proposal = "encoder",
) -> Weighed:
    """log of the mean of K weights p(x, z|u)/q(z|x, u), z ~ q: a lower bound in expectation.

    Equation (8) of Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders.

    Parameters
    ----------
    system : VariationalModel
    x : (B, d)
    u : (B, …) or None
        Without u, where the prior needs one, log p(x) with both laws averaged over u.
    keys : (B, …)
        Raw key data, one key per row.
    count : int
        Samples K per row.
    proposal : {"encoder", "laplace", "prior"}
        In place of q.
    """
    return over_rows(
        lambda target, key: weigh(log_weights(target, target.law(proposal), key, count)),
        system, Dataset(x, u), keys,
    )  # fmt: skip


@compiled
def evidence_lower_bound(
    system: VariationalModel, x: Array, u: Array | None, keys: Array, count: int
) -> Weighed:
    """E_q[log p(x, z|u) − log q(z|x, u)] by the mean over K samples; arguments as `importance`."""

    def one(target: Target, key: Key) -> Weighed:
        values = log_weights(target, target.posterior, key, count)
        missing = jnp.full((), jnp.nan, values.dtype)
        return Weighed(values.mean(), values.var() / max(count - 1, 1), missing, missing)

    return over_rows(one, system, Dataset(x, u), keys)


@compiled
def importance_upper(
    system: VariationalModel, x: Array, u: Array | None, keys: Array, z: Array, count: int
) -> Weighed:
    """log of the mean of K weights of which one is an exact draw of the posterior: an upper bound.

    Under such draws E log (1/K) Σ w_k − log p(x|u) is a divergence, as for the lower bound with the laws
    exchanged; it falls with K. K = 1 is E_posterior log w, the evidence upper bound. Exact draws are
    known where x was simulated by the model itself.

    Parameters
    ----------
    system, x, u, keys, count
        As `importance`.
    z : (B, n)
        The latents from which x was drawn.
    """

    def one(target: Target, key: Key, drawn: Array) -> Weighed:
        first = target.log_joint(drawn[None]) - target.posterior.log_prob(drawn[None])
        rest = log_weights(target, target.posterior, key, count - 1) if count > 1 else first[:0]
        return weigh(jnp.concatenate([first, rest]))

    return over_rows(one, system, Dataset(x, u), keys, z)


@compiled
def thermodynamic_bounds(
    system: VariationalModel, x: Array, u: Array | None, keys: Array, count: int, n_steps: int
) -> tuple[Array, Array]:
    """Riemann sums of log p = ∫ E_β log w dβ, with π_β ∝ q^(1−β) p(x, z|u)^β: below and above, nats (B,) each.

    E_β log w rises with β, so that the left sum, which begins with the ELBO, is a lower bound, and the right
    one an upper bound (Masrani, Le, Wood, 2019, The thermodynamic variational objective, section 4).
    Expectations under π_β are self-normalised averages over the K samples of q, consistent but biased; where
    weights are heavy the upper sum comes out too low.

    Parameters
    ----------
    system, x, u, keys, count
        As `importance`.
    n_steps : int
        Equal steps of β.
    """

    def one(target: Target, key: Key) -> tuple[Array, Array]:
        logs = log_weights(target, target.posterior, key, count)
        beta = jnp.linspace(0.0, 1.0, n_steps + 1, dtype=logs.dtype)
        means = jax.lax.map(lambda b: (jax.nn.softmax(b * logs) * logs).sum(), beta)
        return means[:-1].mean(), means[1:].mean()

    return over_rows(one, system, Dataset(x, u), keys)


def log_weights(target: Target, law: Any, key: Key, count: int) -> Array:
    """log p(x, z_k|u) − log q(z_k) of K draws of a law, nats (K,); in blocks, which bound the memory."""

    def block(key: Key, size: int) -> Array:
        z, log_q = law.sample_with_log_prob(key, size)
        return target.log_joint(z) - log_q

    if count <= _SAMPLES_AT_ONCE:
        return block(key, count)
    keys = jax.random.split(key, -(-count // _SAMPLES_AT_ONCE))
    return jax.lax.map(lambda k: block(k, _SAMPLES_AT_ONCE), keys).reshape(-1)[:count]
