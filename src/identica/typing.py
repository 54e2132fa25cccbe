"""Array aliases and the legend of axis names used in all docstrings.

======  =====================================================
letter  axis
======  =====================================================
N       rows (samples)
B       rows of one batch
d       observed columns
n       components (sources, latent dimensions)
k       sufficient statistics per component
M       distinct values of a discrete auxiliary variable u
m       columns of a continuous auxiliary variable u
K       Monte Carlo samples per row
R       restarts trained side by side
======  =====================================================
"""

from typing import Any, TypeAlias

import jax
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
PyTree: TypeAlias = Any
FloatArray: TypeAlias = NDArray[np.floating[Any]]
IntArray: TypeAlias = NDArray[np.integer[Any]]
