"""What has to be imported before the rest of us is, for its own sake.

Another package may have put a placeholder for NumPyro into ``sys.modules``, to be loaded at the first touch: ArviZ
does.  To import a submodule through it loads that submodule twice, and then handlers do not see a kernel's sites.
"""

__all__ = ["NUMPYRO"]

import warnings

with warnings.catch_warnings():
    # NumPyro imports this too, and where a notebook has no widgets tqdm says so: our bars do not need them.
    warnings.filterwarnings("ignore", message="IProgress not found")
    import tqdm.auto  # noqa: F401

import numpyro

NUMPYRO: str = numpyro.__version__
"""Version of NumPyro; asking for it loads all of it, once."""
