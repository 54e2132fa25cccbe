"""Findings about the integral that a fit by direct maximum likelihood rests on."""

from typing import Any

from identica.findings import Finding

_MOST_UNTRUSTED = 0.05


def integration(estimator: Any) -> Finding | None:
    """Which nodes took the integral, why, and whether they carried it; None for methods without nodes."""
    reason = getattr(estimator, "integrator_reason_", None)
    if reason is None:
        return None
    share, error = float(estimator.untrusted_share_), float(estimator.integration_error_)
    text = f"The integral over the latents was taken by {estimator.n_nodes_:,} nodes ({reason}). "
    if share > _MOST_UNTRUSTED:
        verdict = "bad"
        text += (
            f"For {share:.0%} of the rows one node carries more than half of it: posteriors are narrower than the "
            f"distance of nodes (error {error:+.2g} nats per row), and the fit has followed the nodes. Try "
            "integrator='auto' or more nodes."
        )
    else:
        verdict = "good"
        text += f"No row hangs on a single node; the error is about {error:+.2g} nats per row."
    return Finding(
        "integration",
        str(estimator.integrator_),
        verdict=verdict,
        text=text,
        reference="largest normalised node weight above .5; error against 1,024 points on each posterior",
    )
