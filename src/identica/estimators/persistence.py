"""Save and load: a folder of ``config.json`` and ``weights.safetensors``, no pickle, checksums on both."""

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from sklearn.utils.validation import check_is_fitted

from identica.errors import ModelFileError, StorageError
from identica.estimators.encoding import Encoder, decode
from identica.training.checkpoint import write_atomically

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
_NOT_SAVED = ("callbacks", "checkpoint", "_checkpoint", "_checkpoints")


def estimator_classes() -> dict[str, type]:
    """The classes that a saved model may name."""
    from identica.estimators.adversarial_ica import AdversarialICA
    from identica.estimators.autoencoder import Autoencoder
    from identica.estimators.flow_ica import FlowICA
    from identica.estimators.gaussian_mixture import GaussianMixture
    from identica.estimators.gcl import GCL
    from identica.estimators.ivae import IVAE
    from identica.estimators.linear_ica import LinearICA
    from identica.estimators.marginal_mle import MarginalMLE
    from identica.estimators.nonlinear_ica import NonlinearICA
    from identica.estimators.pcl import PCL
    from identica.estimators.tcl import TCL
    from identica.estimators.vae import VAE
    from identica.estimators.variational_em import VariationalEM

    return {
        c.__name__: c
        for c in (
            AdversarialICA,
            Autoencoder,
            FlowICA,
            GCL,
            GaussianMixture,
            IVAE,
            LinearICA,
            MarginalMLE,
            NonlinearICA,
            PCL,
            TCL,
            VAE,
            VariationalEM,
        )
    }


def save(estimator: Any, folder: str | Path) -> None:
    """Write a fitted estimator as a folder.

    Raises
    ------
    StorageError
        If the folder holds something else, or cannot be written; what was there stays as it was.
    """
    check_is_fitted(estimator)
    folder = Path(folder)
    if not _may_replace(folder):
        raise StorageError(f"{folder} exists and is not a saved model; choose another name")
    encoder = Encoder()
    saved = parts(estimator)
    body = {
        "class": type(estimator).__name__,
        "parameters": {k: encoder.encode(v, f"parameters.{k}") for k, v in saved["parameters"].items()},
        "fitted": {k: encoder.encode(v, k) for k, v in saved["fitted"].items()},
        "versions": {name: version(name) for name in ("identica", "jax", "numpy", "scikit-learn")},
    }
    weights = save_tensors(encoder.arrays)
    body["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    config = {"format": FORMAT, "sha256": _digest(body), **body}
    _replace_folder(folder, {WEIGHTS: weights, CONFIG: json.dumps(config, indent=1).encode()})


def parts(estimator: Any) -> dict[str, dict[str, Any]]:
    """What is saved of an estimator: its parameters, and all that its fit has set."""
    params = {k: v for k, v in estimator.get_params(deep=False).items() if k not in _NOT_SAVED}
    if not isinstance(params.get("random_state"), int | None):
        params["random_state"] = None  # a generator's state is not worth saving; seed_ is
    left_out = {*estimator.get_params(), *_NOT_SAVED}
    fitted = {k: v for k, v in vars(estimator).items() if k not in left_out and not k.startswith("__")}
    return {"parameters": params, "fitted": fitted}


def load(folder: str | Path) -> Any:
    """The estimator saved in a folder by `save`, ready to transform.

    Nothing is unpickled, executed or imported by name; both files are checked against checksums.

    Parameters
    ----------
    folder : path

    Raises
    ------
    ModelFileError
        If the folder is missing, foreign, truncated, damaged or of a newer format.

    Examples
    --------
    >>> import identica, tempfile
    >>> data = identica.simulate("linear", seed=0, n_segments=5, n_per_segment=50)
    >>> fitted = identica.LinearICA(random_state=0).fit(data.X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fitted.save(folder + "/model")
    ...     again = identica.load(folder + "/model")
    >>> bool((again.transform(data.X) == fitted.transform(data.X)).all())
    True
    """
    folder = Path(folder)
    config = _read_config(folder)
    name = str(config.get("class"))
    kind = estimator_classes().get(name)
    if kind is None:
        raise ModelFileError(
            f"{folder} holds a {name!r}, which this version does not know: {', '.join(estimator_classes())}"
        )
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ModelFileError(f"{folder / WEIGHTS} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != config.get("weights_sha256"):
        raise ModelFileError(
            f"{folder / WEIGHTS} is damaged: its checksum differs from the one in {CONFIG}; restore it from a copy"
        )
    try:
        arrays = {name: np.asarray(array) for name, array in load_tensors(content).items()}
        estimator = kind(**{k: decode(v, arrays) for k, v in config["parameters"].items()})
        for name, node in config["fitted"].items():
            setattr(estimator, name, decode(node, arrays))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{folder} is not a readable model: {error}") from None
    return estimator


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is not a saved model: it has no {CONFIG}") from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelFileError(f"{path} is damaged: it is not valid JSON") from None
    if not isinstance(config, dict) or "format" not in config or "sha256" not in config:
        raise ModelFileError(f"{path} is not the configuration of an identica model")
    if config["format"] != FORMAT:
        raise ModelFileError(
            f"{folder} has format {config['format']!r}, this version reads format {FORMAT}; update identica"
        )
    body = {k: v for k, v in config.items() if k not in ("format", "sha256")}
    if _digest(body) != config["sha256"]:
        raise ModelFileError(f"{path} is damaged or was edited: its checksum differs")
    return config


def _may_replace(folder: Path) -> bool:
    """Whether nothing but a model would be lost. Others call their files config.json, too."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return names <= {CONFIG, WEIGHTS} and isinstance(config, dict) and "weights_sha256" in config


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _replace_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files beside the folder, then swap: readers see the old model or the new one."""
    folder = Path(os.path.abspath(folder))
    new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        for name, content in files.items():
            write_atomically(new / name, content)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    except OSError as error:
        kept = ""
        if old.exists() and not folder.exists():
            try:
                os.replace(old, folder)
            except OSError:
                kept = f"; the model that was there is now {old}"
        if isinstance(error, StorageError):
            raise
        raise StorageError(error.errno, f"cannot write {folder}: {error.strerror}{kept}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
