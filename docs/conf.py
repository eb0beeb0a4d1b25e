"""Sphinx configuration. Neither the build nor the site needs network access."""

import sys
from pathlib import Path

import aimz

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "_ext"))

import site_pages  # noqa: E402

project = "aimz"
version = release = aimz.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "site_pages",
]
source_suffix = {
    ".rst": "restructuredtext",  # first: autosummary writes in this format
    ".md": "myst-nb",
    ".ipynb": "myst-nb",
}
exclude_patterns = ["_build", "jupyter_execute", "reference/*.txt"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks are stored with their outputs
nb_merge_streams = True
nb_number_source_lines = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the numpydoc sections
autosummary_generate = True
autosummary_ignore_module_all = False
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {
    name: f":class:`{name}`"
    for name in (
        "distributed.Client",
        "jax.Array",
        "matplotlib.axes.Axes",
        "matplotlib.figure.Figure",
        "mlflow.models.Model",
        "mlflow.models.ModelSignature",
        "numpyro.infer.MCMC",
        "numpyro.infer.SVI",
        "numpyro.infer.svi.SVIState",
        "pandas.DataFrame",
        "xarray.DataArray",
        "xarray.DataTree",
        "xarray.Dataset",
    )
}
numpydoc_xref_aliases |= {
    "ImpactModel": ":class:`aimz.ImpactModel`",
    "ArrayDataset": ":class:`aimz.utils.data.ArrayDataset`",
    "ArrayLoader": ":class:`aimz.utils.data.ArrayLoader`",
}

intersphinx_mapping = site_pages.write_inventories(
    DOCS / "_build" / "inventories"
)

# Prompts and output of the examples are not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div.highlight:not(.highlight-text *) pre"

html_theme = "pydata_sphinx_theme"
html_title = "aimz"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {
        "image_light": "_static/favicon.svg",
        "image_dark": "_static/favicon.svg",
        "text": "aimz",
    },
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "header_links_before_dropdown": 5,
    "show_prev_next": True,
    "footer_start": [],
    "footer_end": [],
    "pygments_light_style": "tango",
}
html_sidebars = {"**": ["sidebar-nav-bs"], "index": []}
