"""Stages and the one chunked loop that runs them; it sees callables and pytrees, no model."""

from identica.training.checkpoint import Checkpoint
from identica.training.loop import Fit, fit
from identica.training.progress import Callback, Progress
from identica.training.solvers import EM, LBFGS, Adam, Solver
from identica.training.stage import Stage

__all__ = ["EM", "LBFGS", "Adam", "Callback", "Checkpoint", "Fit", "Progress", "Solver", "Stage", "fit"]
