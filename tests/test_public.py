"""The public surface: every name is there, documented, and its examples run; imports stay light."""

import doctest
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
import warnings

import pytest

import identica

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(identica.__path__, "identica.")
    if not module.name.endswith("__main__")
)
HEAVY = ["jax", "sklearn", "scipy", "pandas", "matplotlib", "numpyro", "equinox", "optax"]


def public_members():
    for name in identica.__all__:
        value = getattr(identica, name)
        yield name, value
        if inspect.isclass(value):
            for attribute, member in inspect.getmembers(value):
                own = inspect.isfunction(member) and member.__module__.startswith("identica")
                if own and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", member


@pytest.mark.parametrize("name", identica.__all__)
def test_every_public_name_can_be_had_and_is_listed(name):
    assert getattr(identica, name) is not None
    assert name in dir(identica)


def test_there_are_no_other_names_and_no_duplicates():
    assert len(set(identica.__all__)) == len(identica.__all__)
    with pytest.raises(AttributeError, match="module 'identica' has no attribute 'NonexistentICA'"):
        _ = identica.NonexistentICA


def test_every_public_name_is_documented():
    missing = [name for name, value in public_members() if not (inspect.getdoc(value) or "").strip()]
    assert missing == []


def test_every_parameter_of_an_estimator_and_every_argument_of_a_function_is_described():
    undescribed = []
    for name in identica.__all__:
        value = getattr(identica, name)
        if inspect.ismodule(value) or (inspect.isclass(value) and issubclass(value, Exception)):
            continue
        text = inspect.getdoc(value) or ""
        for parameter in inspect.signature(value).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in text:
                undescribed.append(f"{name}({parameter.name})")
    assert undescribed == []


def test_all_arguments_of_estimators_but_the_first_are_keywords():
    for name in identica.__all__:
        value = getattr(identica, name)
        if hasattr(value, "fit"):
            first, *others = inspect.signature(value).parameters.values()
            assert first.name == "n_components"
            assert all(p.kind is p.KEYWORD_ONLY for p in others)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_says_what_it_is(module):
    assert (importlib.import_module(module).__doc__ or "").strip()


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in MODULES:
        for test in finder.find(importlib.import_module(module), module):
            if test.examples:
                yield test


EXAMPLES = {test.name: test for test in examples()}


# Training by gradient; what they show is tested elsewhere on smaller data.
SLOW = ("FlowICA", "GCL", "IVAE", "MarginalMLE", "NonlinearICA", "PCL", "TCL", "VAE", "VariationalEM")
TRAINED = {name for name in EXAMPLES if name.rpartition(".")[2] in SLOW}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in TRAINED else name for name in EXAMPLES]
)
def test_the_examples_of_docstrings_run(name):
    output = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = runner.run(EXAMPLES[name], out=output.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(output)


def test_estimators_and_functions_of_the_first_row_have_an_example():
    without = []
    for name in identica.__all__:
        value = getattr(identica, name)
        if hasattr(value, "fit") or inspect.isfunction(value):
            module = value.__module__
            if f"{module}.{value.__name__}" not in EXAMPLES:
                without.append(name)
    assert without == []


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    ).stdout


@pytest.mark.parametrize("module", ["identica", "identica.errors", "identica.findings", "identica.cli"])
def test_importing_the_package_does_not_import_heavy_libraries(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_importing_everything_changes_no_global_setting():
    code = f"""
import random, warnings
import equinox, jax, matplotlib.pyplot, numpy, numpyro, optax, pandas, scipy.stats, sklearn.cluster, sklearn.mixture
import cyclopts, rich, jinja2, PIL.Image, safetensors.numpy, sklearn.datasets, sklearn.decomposition
def state():
    return (
        dict(jax.config.values), sklearn.get_config(), numpy.geterr(), random.getstate(), list(warnings.filters),
        numpy.random.get_state()[1].tolist(), dict(matplotlib.rcParams), jax.devices(),
    )
before = state()
import importlib
for name in {MODULES}:
    importlib.import_module(name)
after = state()
print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])
"""
    assert run_python(code).strip() == "[]"


def test_the_version_is_that_of_the_installed_package():
    assert identica.__version__ == importlib.metadata.version("identica")


@pytest.mark.slow
def test_every_estimator_fits_with_the_compiler_as_users_have_it():
    """Tests set flags that change how programs are compiled; nothing of a fit may depend on them."""
    code = """
import warnings
import numpy as np
import identica

warnings.simplefilter("ignore")
data = identica.simulate("icebeem", seed=0, n_components=2, layers=2, n_segments=6, n_per_segment=400)
rng = np.random.default_rng(0)
wide = np.hstack([data.X, np.tanh(data.X)]) + 0.1 * rng.standard_normal((len(data.X), 4))
time = np.linspace(0, 1, len(data.X))
short = {"max_iter": 20, "random_state": 0}
fits = [
    (identica.FlowICA(**short), data.X, data.u),
    (identica.FlowICA(prior="hmm", n_states=3, **short), data.X, None),
    (identica.FlowICA(prior="general", **short), data.X, data.u),
    (identica.FlowICA(volume="preserving", **short), wide, data.u),
    (identica.FlowICA(**short), data.X, time),
    (identica.IVAE(2, **short), data.X, data.u),
    (identica.IVAE(2, **short), wide, data.u),
    (identica.IVAE(2, likelihood="student-t", **short), wide, time),
    (identica.NonlinearICA(2, **short), wide, data.u),
    (identica.TCL(2, **short), wide, data.u),
    (identica.PCL(2, **short), wide, None),
    (identica.GCL(2, **short), wide, time),
    (identica.LinearICA(2, method="joint-diagonalization", random_state=0), wide, data.u),
    (identica.VAE(2, **short), wide, None),
    (identica.VAE(2, prior="mixture", objective="iwae", shortcut=False, **short), wide, None),
    (identica.MarginalMLE(2, **short), wide, None),
    (identica.VariationalEM(2, max_iter=2, random_state=0), wide[:300], None),
    (identica.GaussianMixture(3, random_state=0), wide, None),
    (identica.Autoencoder(2, **short), wide, None),
    (identica.AdversarialICA(2, **short), wide, None),
]
for estimator, X, u in fits:
    estimator.fit(X, **({} if u is None else {"u": u}))
    print(estimator, flush=True)
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
