"""Solvers: how one restart moves one step. Descriptions only, so that compiled loops are shared."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from jax.flatten_util import ravel_pytree

from identica.data import Dataset
from identica.typing import Array, PyTree


class StepSolver(ABC):
    """A frozen, hashable description of an optimiser whose steps are compiled into chunks."""

    @abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """State before the first step of a stage."""

    @abstractmethod
    def step(
        self, loss: Callable[[PyTree], Array], params: PyTree, state: PyTree, index: Array, steps: Array
    ) -> tuple[PyTree, PyTree, Array, Array]:
        """Step ``index`` of ``steps``: new parameters, new state, loss before it, whether it was finite."""


@dataclass(frozen=True)
class Adam(StepSolver):
    """Adam with clipped gradients, linear warm-up and cosine decay over the stage.

    Attributes
    ----------
    rate : float
        Peak learning rate.
    b2 : float
        Decay of the second moment.
    clip : float
        Largest global norm of the gradient of one restart.
    warmup : int
        Steps from a tenth of the peak rate to the peak (at most a tenth of the stage).
    """

    rate: float = 3e-3
    b2: float = 0.999
    clip: float = 10.0
    warmup: int = 100

    @property
    def _transform(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.scale_by_adam(b2=self.b2))

    def rate_at(self, index: Array, steps: Array) -> Array:
        """Learning rate of step ``index``: 10 % to 100 % of the peak in the warm-up, then down to 1 %.

        Traced rather than built for a number of steps, so that stages of any length share compiled code.
        """
        warmup = jnp.minimum(self.warmup, steps // 10)
        rising = 0.1 + 0.9 * index / jnp.maximum(warmup, 1)
        progress = jnp.clip((index - warmup) / jnp.maximum(steps - warmup, 1), 0.0, 1.0)
        falling = 0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return self.rate * jnp.where(index < warmup, rising, falling)

    def init(self, params: PyTree) -> PyTree:
        return self._transform.init(ravel_pytree(params)[0])

    def step(
        self, loss: Callable[[PyTree], Array], params: PyTree, state: PyTree, index: Array, steps: Array
    ) -> tuple[PyTree, PyTree, Array, Array]:
        value, gradients = jax.value_and_grad(loss)(params)
        # One long vector: an array at a time, half of what is compiled would be the optimiser.
        vector, unravel = ravel_pytree(params)
        gradient, _ = ravel_pytree(gradients)
        updates, new_state = self._transform.update(gradient, state)
        update = jnp.asarray(updates)  # type: ignore[arg-type]
        rate = self.rate_at(index, steps)
        finite = jnp.isfinite(value) & jnp.isfinite(gradient @ gradient)
        # A step that is not finite is skipped whole: neither parameters nor moments take it in.
        keep = lambda new, old: jnp.where(finite, new, old)
        moved = jnp.where(finite, vector - (rate * update).astype(vector.dtype), vector)
        return unravel(moved), jax.tree.map(keep, new_state, state), value, finite


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS (SciPy) for a deterministic objective on all rows.

    Each chunk starts anew from the parameters alone, so that there is no other state to save.

    Attributes
    ----------
    memory : int
        Number of remembered steps.
    """

    memory: int = 30

    def minimize(
        self,
        value_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]],
        vector: np.ndarray,
        iterations: int,
    ) -> tuple[np.ndarray, float]:
        """The vector after so many iterations, and its loss."""
        options = {"maxiter": iterations, "maxcor": self.memory, "ftol": 1e-10, "gtol": 1e-7}
        result = scipy.optimize.minimize(
            value_and_gradient, vector.astype(np.float64), jac=True, method="L-BFGS-B", options=options
        )
        return result.x, float(result.fun)


@dataclass(frozen=True)
class EM:
    """Expectation-maximisation (Dempster, Laird and Rubin, 1977): whole updates on all rows.

    No step may raise the objective: an update that does so is wrong, and training says so.

    Attributes
    ----------
    update : callable, hashable
        ``update(system, data) -> (new system, value)``: one E-step and one M-step, with the stage's
        objective before them, nats per row, which the E-step yields anyway.
    """

    update: Callable[[PyTree, Dataset], tuple[PyTree, Array]]


Solver: TypeAlias = StepSolver | LBFGS | EM
