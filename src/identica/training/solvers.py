"""Solvers: how one restart moves one step. Descriptions only, so that compiled loops are shared."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from identica.typing import Array, PyTree


class Solver(ABC):
    """A frozen, hashable description of an optimiser."""

    @abstractmethod
    def init(self, params: PyTree, steps: int) -> PyTree:
        """State before the first of ``steps`` steps."""

    @abstractmethod
    def step(
        self, loss: Callable[[PyTree], Array], params: PyTree, state: PyTree, steps: int
    ) -> tuple[PyTree, PyTree, Array, Array]:
        """One step: new parameters, new state, loss before the step, whether the step was finite."""


@dataclass(frozen=True)
class Adam(Solver):
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

    def _transform(self, steps: int) -> optax.GradientTransformation:
        schedule = optax.warmup_cosine_decay_schedule(
            0.1 * self.rate, self.rate, min(self.warmup, steps // 10), max(steps, 1), 0.01 * self.rate
        )
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(schedule, b2=self.b2))

    def init(self, params: PyTree, steps: int) -> PyTree:
        return self._transform(steps).init(params)

    def step(
        self, loss: Callable[[PyTree], Array], params: PyTree, state: PyTree, steps: int
    ) -> tuple[PyTree, PyTree, Array, Array]:
        value, gradient = jax.value_and_grad(loss)(params)
        updates, new_state = self._transform(steps).update(gradient, state, params)
        finite = jnp.isfinite(value) & jnp.isfinite(optax.global_norm(gradient))
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        params = jax.tree.map(keep, optax.apply_updates(params, updates), params)
        # A step that is not finite is skipped whole: neither parameters nor moments take it in.
        return params, jax.tree.map(keep, new_state, state), value, finite


@dataclass(frozen=True)
class LBFGS(Solver):
    """Limited-memory BFGS with a zoom line search, for a deterministic objective on all rows."""

    memory: int = 20
    line_search_steps: int = 12

    def _transform(self) -> optax.GradientTransformationExtraArgs:
        search = optax.scale_by_zoom_linesearch(
            self.line_search_steps, initial_guess_strategy="one", max_learning_rate=1.0
        )
        return optax.lbfgs(memory_size=self.memory, linesearch=search)

    def init(self, params: PyTree, steps: int) -> PyTree:
        return self._transform().init(params)

    def step(
        self, loss: Callable[[PyTree], Array], params: PyTree, state: PyTree, steps: int
    ) -> tuple[PyTree, PyTree, Array, Array]:
        value, gradient = optax.value_and_grad_from_state(loss)(params, state=state)
        updates, new_state = self._transform().update(
            gradient, state, params, value=value, grad=gradient, value_fn=loss
        )
        new = optax.apply_updates(params, updates)
        finite = jnp.isfinite(value) & jnp.isfinite(optax.global_norm(new))
        keep = lambda a, b: jnp.where(finite, a, b)  # noqa: E731
        return jax.tree.map(keep, new, params), jax.tree.map(keep, new_state, state), value, finite
