"""A flow in training whose states another model tells."""

import equinox as eqx

from identica.conditionals.hidden_markov import GaussianStates
from identica.models.flow import FlowModel


class TaughtFlow(eqx.Module):
    """A flow without a prior, and hidden states of x that stand in for u.

    Attributes
    ----------
    flow : FlowModel
    teacher : GaussianStates
        Of the scores x; not trained.
    """

    flow: FlowModel
    teacher: GaussianStates
