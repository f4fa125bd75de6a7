"""Sphinx's settings of the book that `vlmlab book` builds: nothing is executed, nothing is loaded from elsewhere."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

from vlmlab import __version__
from vlmlab.notebooks import mathml

project = "vlmlab"
author = "the vlmlab contributors"
version = release = __version__
language = "en"

extensions = ["myst_nb", "sphinxcontrib.bibtex"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # an output's formulas are formulas

bibtex_bibfiles = ["references.bib"]

html_theme = "furo"
html_title = "vlmlab"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_math_renderer = "offline"
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # it fetches the pages found, which a browser refuses on file://


def _formula(self: HTML5Translator, node: nodes.Element) -> None:
    """MathML for a formula in a line or by itself. What the converter does not know is a fault of the book."""
    block = isinstance(node, nodes.math_block)
    shown = mathml.convert(node.astext(), block)
    if not shown.startswith("<math"):
        logging.getLogger(__name__).warning("no MathML for the formula %s", node.astext(), location=node)
    self.body.append(f'<div class="math">{shown}</div>' if block else shown)
    raise nodes.SkipNode


def _roles(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Mend roles: a part's title in a table of contents lacks its level, and a reference's role is out of use."""
    for part in ("body", "furo_navigation_tree"):
        if part in context:
            mended = context[part].replace('role="heading">', 'role="heading" aria-level="2">')
            context[part] = mended.replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> None:
    """Formulas without a script: every browser shows MathML."""
    app.add_html_math_renderer("offline", (_formula, None), (_formula, None))
    app.connect("html-page-context", _roles, priority=900)  # after the theme
