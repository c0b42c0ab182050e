"""Formulas from a results file, let into the page only as far as they are mathematics."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

# Presentation MathML Core, and the annotation that carries a formula's source.
_NAMES = """
    math mrow mi mn mo mtext mspace ms mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts
    mprescripts mtable mtr mtd mpadded mphantom mstyle merror semantics annotation
"""
_ATTRIBUTE_NAMES = """
    display alttext displaystyle mathvariant stretchy fence separator form lspace rspace width height depth columnalign
    columnspacing rowspacing accent accentunder linethickness scriptlevel minsize maxsize largeop movablelimits
    symmetric voffset columnspan rowspan dir encoding
"""
_ELEMENTS, _ATTRIBUTES = frozenset(_NAMES.split()), frozenset(_ATTRIBUTE_NAMES.split())

# What a style may say: declarations of alignment and of font families, which cannot reach outside the page.
_DECLARATION = r"(text-align: (-webkit-)?(left|center|right)|font-family: [\w ,]+)"
_STYLE = re.compile(rf"{_DECLARATION}(; {_DECLARATION})*")


def trusted(source: str) -> Markup | None:
    """The formula as markup with nothing but known elements and attributes; None if it is anything else."""
    try:
        root = ElementTree.fromstring(source)
    except ElementTree.ParseError:
        return None
    for element in root.iter():
        element.tag = element.tag.removeprefix("{http://www.w3.org/1998/Math/MathML}")
        if element.tag not in _ELEMENTS:
            return None
        for name, value in list(element.attrib.items()):
            if name not in _ATTRIBUTES and not (name == "style" and _STYLE.fullmatch(value)):
                del element.attrib[name]
    if root.tag != "math":
        return None
    root.tail = None
    return Markup(ElementTree.tostring(root, encoding="unicode"))
