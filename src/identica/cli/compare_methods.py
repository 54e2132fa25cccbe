"""Methods that `identica compare` knows: name, class, and what each can be given."""

from dataclasses import dataclass, field
from typing import Any, Literal

from identica.cli.output import UsageError

Needs = Literal["u", "discrete u", "sequence"]


@dataclass(frozen=True)
class Method:
    """One row of a comparison.

    Attributes
    ----------
    name : str
        For people, and for ``--methods``.
    estimator : str
        Class in `identica`.
    options : dict
        What makes it this method rather than another of the class.
    needs : {"u", "discrete u", "sequence"} or None
        Without which it cannot run.
    takes_u : bool
        Whether it models p(x|u); otherwise it models p(x) and is not given u.
    counts : bool
        Whether it has other likelihoods than the Gaussian.
    usual : bool
        Whether it is run if nobody asks for it.
    """

    name: str
    estimator: str
    options: dict[str, Any] = field(default_factory=dict)
    needs: Needs | None = None
    takes_u: bool = False
    counts: bool = False
    usual: bool = True


METHODS = (
    Method("fastica", "LinearICA", {"method": "fastica"}),
    Method(
        "joint-diagonalization",
        "LinearICA",
        {"method": "joint-diagonalization"},
        needs="discrete u",
        takes_u=True,
    ),
    Method("flow", "FlowICA", needs="u", takes_u=True),
    Method("ivae", "IVAE", needs="u", takes_u=True, counts=True),
    Method("vae", "VAE", counts=True),
    Method("iwae", "VAE", {"objective": "iwae"}, counts=True, usual=False),
    Method("mixture-vae", "VAE", {"prior": "mixture"}, counts=True, usual=False),
    Method("mle", "MarginalMLE", counts=True, usual=False),
    Method("em", "VariationalEM", counts=True, usual=False),
    Method("tcl", "TCL", needs="discrete u", takes_u=True, usual=False),
    Method("gcl", "GCL", needs="u", takes_u=True, usual=False),
    Method("pcl", "PCL", needs="sequence", usual=False),
    Method("autoencoder", "Autoencoder", usual=False),
    Method("adversarial", "AdversarialICA", usual=False),
)


def chosen_methods(
    wanted: list[str] | None, *, has_u: bool, likelihood: str, sequence: bool = False
) -> list[Method]:
    """The methods to run, in the order asked for.

    Raises
    ------
    UsageError
        An unknown name, or a method that lacks what it needs.
    """
    known = {method.name: method for method in METHODS}
    lacking = {method.name: _lacking(method, has_u, likelihood, sequence) for method in METHODS}
    names = [part.strip() for value in wanted or [] for part in value.split(",") if part.strip()]
    if not names or names == ["all"]:
        return [m for m in METHODS if not lacking[m.name] and (m.usual or bool(names))]
    for name in names:
        if name not in known:
            raise UsageError(
                f"--methods {name}: there is no such method; choose among {', '.join(known)}, or all"
            )
        if lacking[name]:
            raise UsageError(f"--methods {name}: {lacking[name]}")
    return [known[name] for name in dict.fromkeys(names)]


def _lacking(method: Method, has_u: bool, likelihood: str, sequence: bool) -> str:
    """Why a method cannot run, or nothing."""
    if method.needs in ("u", "discrete u") and not has_u:
        return "it tells sources apart by u: add --u COLUMN, or --windows 20 for rows in the order of time"
    if method.needs == "sequence" and not sequence:
        return "it needs rows in the order of time: add --sequence COLUMN"
    if likelihood != "gaussian" and not method.counts:
        return f"it has no --likelihood {likelihood}"
    return ""
