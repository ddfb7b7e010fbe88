"""Configuration of the documentation site, which `make docs` builds into docs/_build/html with warnings as errors."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import rieszflow

project = "rieszflow"
copyright = "the rieszflow authors"
version = release = rieszflow.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/GALLERY_HEADER.rst"]
default_role = "py:obj"  # `name` in a docstring is a link where there is such a name, and code elsewhere
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes stand in a class's list, and not once more by themselves

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "how-to",
    "filename_pattern": r".*",
    "ignore_pattern": r"(dask|spark)_drift",  # those that need a cluster are told in scaling.md
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "abort_on_example_error": True,
    "doc_module": ("rieszflow",),
    "reference_url": {"rieszflow": None},
}

html_domain_indices = False  # the API pages are that index
html_theme = "furo"
html_title = f"rieszflow {release}"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}

# Pages link to one another as files of the repository. Files outside of this folder have a page of their own here.
OUTSIDE = {"(../CONTRIBUTING.md)": "(contributing.md)", "(../README.md)": "(start.md)"}


def setup(app):
    app.connect("source-read", _replace_links)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math, None))


def _replace_links(app, docname, source):
    for address, page in OUTSIDE.items():
        source[0] = source[0].replace(address, page)


def _visit_math(self, node):
    """Render a formula as MathML, which browsers display without scripts or requests to other sites."""
    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode
