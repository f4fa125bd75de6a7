"""TeX to MathML at build time, so that a page shows its formulas without a script or a font from the network.

Serves every notebook's page in the report.
"""

import html
import re
import xml.etree.ElementTree as ElementTree

_ALIGNED = re.compile(r"\\(begin|end)\{(aligned|align|split|gathered|gather|equation|alignat|eqnarray)\*?\}")


def convert(tex: str, block: bool = False) -> str:
    """MathML for a formula; the TeX itself in <code> where the converter does not know what it says."""
    from latex2mathml.converter import convert as latex_to_mathml

    source = html.unescape(tex).strip()
    prepared = _ALIGNED.sub(lambda match: f"\\{match[1]}{{align*}}" if match[2] != "equation" else "", source)
    try:
        mathml = latex_to_mathml(prepared, display="block" if block else "inline")
        tree = ElementTree.fromstring(mathml)
        understood = not any((element.text or "").startswith("\\") for element in tree.iter())
    except Exception:  # the converter raises a class of its own for each kind of fault, and bare IndexError too
        understood = False
    if understood:
        return mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "", 1)
    return f'<code class="tex">{html.escape(source)}</code>'
