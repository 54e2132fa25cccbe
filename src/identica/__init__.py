"""identica: recover the independent sources behind nonlinear mixtures, and know how far to trust them."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from identica import metrics as metrics
    from identica.errors import DataError as DataError
    from identica.errors import IdenticaError as IdenticaError
    from identica.estimators.adversarial_ica import AdversarialICA as AdversarialICA
    from identica.estimators.autoencoder import Autoencoder as Autoencoder
    from identica.estimators.flow_ica import FlowICA as FlowICA
    from identica.estimators.gaussian_mixture import GaussianMixture as GaussianMixture
    from identica.estimators.gcl import GCL as GCL
    from identica.estimators.ivae import IVAE as IVAE
    from identica.estimators.linear_ica import LinearICA as LinearICA
    from identica.estimators.marginal_mle import MarginalMLE as MarginalMLE
    from identica.estimators.nonlinear_ica import NonlinearICA as NonlinearICA
    from identica.estimators.pcl import PCL as PCL
    from identica.estimators.persistence import load as load
    from identica.estimators.tcl import TCL as TCL
    from identica.estimators.vae import VAE as VAE
    from identica.estimators.variational_em import VariationalEM as VariationalEM
    from identica.findings import Finding as Finding
    from identica.series.labels import segments as segments
    from identica.simulation.scenarios import Simulation as Simulation
    from identica.simulation.scenarios import simulate as simulate

# Importing JAX and scikit-learn takes seconds, so public names are resolved on first use:
# `identica --help` must not wait for them.
_PUBLIC = {
    "FlowICA": "identica.estimators.flow_ica",
    "GaussianMixture": "identica.estimators.gaussian_mixture",
    "IVAE": "identica.estimators.ivae",
    "MarginalMLE": "identica.estimators.marginal_mle",
    "VAE": "identica.estimators.vae",
    "VariationalEM": "identica.estimators.variational_em",
    "LinearICA": "identica.estimators.linear_ica",
    "TCL": "identica.estimators.tcl",
    "PCL": "identica.estimators.pcl",
    "GCL": "identica.estimators.gcl",
    "AdversarialICA": "identica.estimators.adversarial_ica",
    "Autoencoder": "identica.estimators.autoencoder",
    "NonlinearICA": "identica.estimators.nonlinear_ica",
    "load": "identica.estimators.persistence",
    "segments": "identica.series.labels",
    "simulate": "identica.simulation.scenarios",
    "Simulation": "identica.simulation.scenarios",
    "Finding": "identica.findings",
    "DataError": "identica.errors",
    "IdenticaError": "identica.errors",
}

__all__ = [*sorted(_PUBLIC), "metrics"]  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = version("identica")


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return import_module("identica.metrics")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'identica' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
