"""Sources, mixings and named scenarios: data whose parameters are known."""

from identica.simulation.oracle import Ceiling
from identica.simulation.scenarios import Simulation, scenario_names, scenario_options, simulate

__all__ = ["Ceiling", "Simulation", "scenario_names", "scenario_options", "simulate"]
