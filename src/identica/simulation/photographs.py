"""Two photographs as sources, mixed nonlinearly: a demonstration whose success can be seen."""

from dataclasses import dataclass

import numpy as np

from identica.random import named_rng
from identica.simulation.mixings import Elementwise
from identica.typing import FloatArray, IntArray

BLOCK = 30
"""Side of the square blocks of pixels that serve as u."""


@dataclass(frozen=True)
class Photographs:
    """Mixed photographs with the truth; one row per pixel, row by row of the image.

    Attributes
    ----------
    X : array (N, 2)
        Mixtures, noiseless.
    u : array (N,) of int
        Number of the 30 × 30 block of each pixel.
    S : array (N, 2)
        The photographs, grey, mean 0 and variance 1.
    shape : tuple of int
        Height and width; N is their product.
    names : tuple of str
        What the photographs show.
    seed : int
        What `photographs` was called with.
    """

    X: FloatArray
    u: IntArray
    S: FloatArray
    shape: tuple[int, int]
    names: tuple[str, str]
    seed: int

    def image(self, values: FloatArray) -> FloatArray:
        """One column of N values as an image."""
        return np.asarray(values).reshape(self.shape)


def mix(sources: FloatArray) -> FloatArray:
    """Rotation, tanh(x) + x/10, rotation, leaky ReLU of slope 0.2, rotation: (N, 2) to (N, 2), invertible."""
    x = Elementwise("xtanh", 0.1)(sources @ _rotation(0.7).T)
    x = Elementwise("leaky", 0.2)(x @ _rotation(-1.1).T)
    return x @ _rotation(0.5).T


def photographs(*, seed: int = 0) -> Photographs:
    """The two sample images of scikit-learn, the flower and the temple, grey and mixed by `mix`.

    Photographs are not independent and not Gaussian: what they share with the model is that brightness
    and contrast change from block to block, in each photograph in its own way.

    Parameters
    ----------
    seed : int
        Of the uniform noise, half a grey level wide to each side, that turns the 8-bit levels into continuous
        values; a density of discrete values has no bound.

    Returns
    -------
    Photographs
        264,600 pixels in 294 blocks.

    Examples
    --------
    >>> pictures = photographs()
    >>> pictures.X.shape, pictures.shape, int(pictures.u.max()) + 1
    ((264600, 2), (420, 630), 294)
    """
    from sklearn.datasets import load_sample_images

    rng = named_rng(seed, "photographs")
    temple, flower = load_sample_images().images
    images = [flower, temple]
    height, width = (side // BLOCK * BLOCK for side in images[0].shape[:2])
    grey = [image[:height, :width].astype(np.float64).mean(axis=2) for image in images]
    columns = [(g + rng.uniform(-0.5, 0.5, g.shape)).reshape(-1) for g in grey]
    sources = np.stack([(c - c.mean()) / c.std() for c in columns], axis=1)
    rows, places = np.divmod(np.arange(height * width), width)
    u = rows // BLOCK * (width // BLOCK) + places // BLOCK
    return Photographs(mix(sources), u, sources, (height, width), ("flower", "temple"), seed)


def _rotation(angle: float) -> FloatArray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])
