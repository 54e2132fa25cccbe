"""Neural likelihood p(x|z)."""

import numpyro.distributions as dist

from identica.conditionals.base import Conditional
from identica.conditionals.observations import Observation
from identica.networks.flow_mixing import FlowMixing
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, Key


class Decoder(Conditional):
    """p(x|z): a network of z whose outputs parametrise an observation model.

    Attributes
    ----------
    network : MultilayerPerceptron or FlowMixing
        n inputs, as many outputs as the observation model needs.
    observation : Observation
        Family of x given the outputs.
    """

    network: MultilayerPerceptron | FlowMixing
    observation: Observation

    @classmethod
    def random(
        cls,
        n: int,
        hidden_sizes: tuple[int, ...],
        d: int,
        observation: Observation,
        *,
        activation: str = "silu",
        key: Key,
    ) -> "Decoder":
        """A smooth network with a linear shortcut, near zero at first."""
        network = MultilayerPerceptron.random(
            n,
            hidden_sizes,
            observation.outputs(d),
            activation=activation,
            shortcut=True,
            last_scale=0.1,
            key=key,
        )
        return cls(network, observation)

    def __call__(self, context: Array) -> dist.Distribution:
        """p(x|z) for z (…, n): batch shape (…), event shape (d,)."""
        return self.observation(self.network(context))

    def mean(self, z: Array) -> Array:
        """E x given z, (…, d)."""
        return self.observation.mean(self.network(z))
