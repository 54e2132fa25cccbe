"""Fitted attributes as JSON plus arrays, and back, through an explicit table of types.

Decoding builds only types that stand in the table; nothing is imported by a name from a file, and
nothing is executed.
"""

import dataclasses
import enum
import math
from functools import cache
from typing import Any

import equinox as eqx
import jax
import numpy as np

from identica.auxiliary import AuxiliaryEncoder, Column
from identica.errors import ModelFileError, Status


@cache
def types_by_name() -> dict[str, type]:
    """Every type that a saved model may hold."""
    from identica import conditionals, families, models, networks
    from identica.linear.whitening import Whitening

    table: dict[str, type] = {t.__name__: t for t in (AuxiliaryEncoder, Column, Status, Whitening)}
    for package in (families, networks, conditionals, models):
        for name in package.__all__:
            value = getattr(package, name)
            if isinstance(value, type) and issubclass(value, eqx.Module):
                table[name] = value
    return table


def estimators_by_name() -> dict[str, type]:
    """Every estimator that a saved one may hold."""
    from identica.estimators.persistence import estimator_classes

    return estimator_classes()


class Encoder:
    """Turns values into JSON nodes and collects their arrays.

    Attributes
    ----------
    arrays : dict
        Arrays found so far, under the names that the nodes refer to.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def encode(self, value: Any, path: str) -> Any:
        """A JSON-ready node for ``value``; ``path`` names its arrays."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | np.integer):
            return int(value)
        if isinstance(value, float | np.floating):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, np.ndarray | jax.Array):
            return self._array(np.asarray(value), path)
        if isinstance(value, tuple):
            return {"tuple": [self.encode(v, f"{path}.{i}") for i, v in enumerate(value)]}
        if isinstance(value, list):
            return [self.encode(v, f"{path}.{i}") for i, v in enumerate(value)]
        if isinstance(value, dict):
            return {"dict": {str(k): self.encode(v, f"{path}.{k}") for k, v in value.items()}}
        name = type(value).__name__
        if estimators_by_name().get(name) is type(value):
            from identica.estimators.persistence import parts

            return {"estimator": name, **{k: self.encode(v, f"{path}.{k}") for k, v in parts(value).items()}}
        if types_by_name().get(name) is type(value):
            if isinstance(value, enum.Enum):
                return {"type": name, "member": value.name}
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {"type": name, "fields": {k: self.encode(v, f"{path}.{k}") for k, v in fields.items()}}
        raise TypeError(f"{path} holds a {type(value).__name__}, which cannot be saved")

    def _array(self, array: np.ndarray, path: str) -> Any:
        if array.dtype.kind in "US" or array.dtype == object:
            return {"strings": [str(v) for v in array.ravel()], "shape": list(array.shape)}
        self.arrays[path] = array.copy(order="C")
        return {"array": path}


def decode(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value of a node.

    Raises
    ------
    ModelFileError
        If it names an unknown type or array, or has other fields than the type.
    """
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, list):
        return [decode(n, arrays) for n in node]
    if not isinstance(node, dict) or not node:
        raise ModelFileError("the configuration holds a node of unknown form")
    if "array" in node:
        if node["array"] not in arrays:
            raise ModelFileError(f"the weights lack the array {node['array']!r}")
        return arrays[node["array"]]
    if "float" in node:
        return float(node["float"])
    if "tuple" in node:
        return tuple(decode(n, arrays) for n in node["tuple"])
    if "dict" in node:
        return {k: decode(n, arrays) for k, n in node["dict"].items()}
    if "estimator" in node:
        return _decode_estimator(node, arrays)
    if "strings" in node:
        return np.array(node["strings"], dtype=object).reshape(node["shape"])
    return _decode_object(node, arrays)


def _decode_object(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    kind = types_by_name().get(node.get("type", ""))
    if kind is None:
        raise ModelFileError(f"unknown type {node.get('type')!r}; was the model saved by a newer version?")
    if issubclass(kind, enum.Enum):
        return kind[node["member"]]
    names = [f.name for f in dataclasses.fields(kind)]
    if sorted(names) != sorted(node["fields"]):
        raise ModelFileError(f"{kind.__name__} has fields {names}, the file has {sorted(node['fields'])}")
    # Fields are set as they were, without running constructors on what a file says.
    value = object.__new__(kind)
    for name in names:
        object.__setattr__(value, name, decode(node["fields"][name], arrays))
    return value


def _decode_estimator(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    kind = estimators_by_name().get(node["estimator"])
    if kind is None:
        raise ModelFileError(
            f"unknown estimator {node['estimator']!r}; was the model saved by a newer version?"
        )
    estimator = kind(**decode(node["parameters"], arrays))
    for name, value in decode(node["fitted"], arrays).items():
        setattr(estimator, name, value)
    return estimator
