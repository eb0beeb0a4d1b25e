"""What would have happened if: Bayesian what-if analysis on NumPyro models.

:class:`ImpactModel` is the one class most users meet.  It takes a NumPyro model (a *kernel*), fits it with
:class:`numpyro.infer.SVI` or :class:`numpyro.infer.MCMC`, predicts, intervenes, and compares.
"""

from aimz.model import ImpactModel

__all__ = ["ImpactModel", "__version__"]

__version__ = "0.1.0"
