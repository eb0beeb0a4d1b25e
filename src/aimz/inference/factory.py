"""Choice of the fit for an inference object."""

__all__ = ["make_fit"]

from numpyro.infer import MCMC, SVI

from aimz.errors import FitWarning, warn
from aimz.inference.base import Fit
from aimz.inference.choice import read_request
from aimz.inference.chosen_fits import DeferredFit
from aimz.inference.mcmc import MCMCFit
from aimz.inference.svi import SVIFit
from aimz.kernel import kernel_name
from aimz.types import Kernel


def make_fit(kernel: Kernel, inference: object, svi: object) -> Fit:
    """Return a fit by the inference object given; without one, the inference is chosen when the data are known.

    Raises
    ------
    TypeError
        If both are given, the object is neither SVI nor MCMC, or MCMC has no model.

    Warns
    -----
    FitWarning
        If the model of the object is not the kernel.
    """
    if inference is not None and svi is not None:
        msg = "At most one of `inference` and `svi` must be given; got both. They are the same argument."
        raise TypeError(msg)
    chosen = svi if inference is None else inference
    if chosen is None or isinstance(chosen, str):
        return DeferredFit(kernel, read_request(chosen))
    if not isinstance(chosen, SVI | MCMC):
        msg = f"Unsupported inference object: `{type(chosen).__name__}`. Expected `SVI` or `MCMC` from `numpyro.infer`."
        raise TypeError(msg)
    model = chosen.model if isinstance(chosen, SVI) else getattr(chosen.sampler, "model", None)
    if model is None:
        msg = "The MCMC object must sample a model; got one made from a `potential_fn`, which has no sites."
        raise TypeError(msg)
    if model is not kernel:
        warn(
            f"The inference object fits `{kernel_name(model)}`, which is not the object `{kernel_name(kernel)}` that "
            "predicts. Their sites must agree.",
            FitWarning,
        )
    return SVIFit(chosen) if isinstance(chosen, SVI) else MCMCFit(chosen)
