"""What priors, likelihoods and posteriors have in common: context → distribution."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import numpyro.distributions as dist

from identica.typing import Array


class Conditional(eqx.Module):
    """A distribution that depends on a context: u for a prior, z for a likelihood, x for a posterior.

    Contexts are whole batches; their leading axes become the batch shape of the distribution, whose
    event is one vector.
    """

    @abc.abstractmethod
    def __call__(self, context: Any) -> dist.Distribution:
        """The numpyro distribution given the context."""


class Evidence(NamedTuple):
    """Context of an amortised posterior q(z|x, u).

    Attributes
    ----------
    x : (B, d)
        Observations.
    u : (B,) int, (B, m) float, or None
        Auxiliary variable.
    prior : numpyro Distribution
        p(z|u) of the same rows, event shape (n,). Encoders that multiply a likelihood factor with the
        prior take it from here, so that there is one prior and not two.
    """

    x: Array
    u: Array | None
    prior: dist.Distribution
