"""iVAE as it was published with ICE-BeeM, reimplemented: the yardstick of `noise.py`, not part of identica.

Prior with mean 0 and a log-variance from a network of u; encoder of x and u with a diagonal Gaussian; decoder with
a fixed variance of .01; every network three layers of 2d leaky units (slope .1, Xavier); the plain bound; Adam with
1e-3, batches of 256, the rate divided by ten where the loss of 20 epochs did not fall. Khemakhem, Monti, Kingma,
Hyvärinen (2020), ICE-BeeM: released code, `runners/ivae_exp_runner.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

_BATCH, _VARIANCE, _SLOPE, _PATIENCE = 256, 0.01, 0.1, 20


class ReferenceIVAE:
    """`fit` and `transform` of a plain iVAE; u are codes 0, 1, … of segments."""

    def __init__(self, n_components: int, *, max_iter: int = 25_000, random_state: int = 0):
        self.n_components, self.max_iter, self.random_state = n_components, max_iter, random_state

    def fit(self, X: np.ndarray, u: np.ndarray) -> "ReferenceIVAE":
        """Train on rows X (N, d), not standardised, with codes u (N,)."""
        n, d = self.n_components, X.shape[1]
        self.segments_ = segments = int(u.max()) + 1
        key, *keys = jax.random.split(jax.random.key(self.random_state), 6)
        sizes = {
            "mean": (d + segments, n),
            "log_variance": (d + segments, n),
            "decoder": (n, d),
            "prior": (segments, n),
        }
        parameters = {
            name: _network(i, 2 * n, o, k) for (name, (i, o)), k in zip(sizes.items(), keys, strict=False)
        }
        solver = optax.chain(
            optax.adam(1e-3),
            optax.contrib.reduce_on_plateau(
                0.1, patience=_PATIENCE, accumulation_size=max(1, len(X) // _BATCH)
            ),
        )
        x, codes = jnp.asarray(X, jnp.float32), jnp.asarray(u)

        def step(carry, key):
            parameters, state = carry
            rows_key, noise_key = jax.random.split(key)
            rows = jax.random.randint(rows_key, (_BATCH,), 0, len(x))
            loss, slope = jax.value_and_grad(_loss)(
                parameters, x[rows], jax.nn.one_hot(codes[rows], segments), noise_key
            )
            updates, state = solver.update(slope, state, parameters, value=loss)
            return (optax.apply_updates(parameters, updates), state), loss

        keys = jax.random.split(key, self.max_iter)
        start = (parameters, solver.init(parameters))
        (self.parameters_, _), _ = jax.jit(lambda c, k: jax.lax.scan(step, c, k))(start, keys)
        return self

    def transform(self, X: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Means of the encoder, (N, n)."""
        context = jnp.concatenate([jnp.asarray(X, jnp.float32), jax.nn.one_hot(u, self.segments_)], axis=1)
        return np.asarray(_apply(self.parameters_["mean"], context), np.float64)


def _network(n_in: int, hidden: int, n_out: int, key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    sizes = [n_in, hidden, hidden, n_out]
    xavier = jax.nn.initializers.glorot_uniform()
    return [
        (xavier(k, (a, b)), jnp.zeros(b))
        for a, b, k in zip(sizes, sizes[1:], jax.random.split(key, 3), strict=False)
    ]


def _apply(layers: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = jax.nn.leaky_relu(x @ w + b, _SLOPE)
    return x @ weight + bias


def _loss(parameters: dict, x: jax.Array, u: jax.Array, key: jax.Array) -> jax.Array:
    """Minus the bound, nats per row, by one sample of q(z|x, u)."""
    context = jnp.concatenate([x, u], axis=1)
    mean, log_variance = (_apply(parameters[name], context) for name in ("mean", "log_variance"))
    prior = _apply(parameters["prior"], u)
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
    error = ((x - _apply(parameters["decoder"], z)) ** 2).sum(1) / (2 * _VARIANCE)
    log_q = -0.5 * ((z - mean) ** 2 / jnp.exp(log_variance) + log_variance).sum(1)
    log_prior = -0.5 * (z**2 / jnp.exp(prior) + prior).sum(1)
    return (error + log_q - log_prior).mean()
