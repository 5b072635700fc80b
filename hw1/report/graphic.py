"""A figure's SVG file as part of a page: nothing in it that runs or loads, and no identifier of another figure's."""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
TITLE = "{http://purl.org/dc/elements/1.1/}title"
DRAWN = frozenset({
    "svg", "g", "defs", "path", "text", "tspan", "use", "clipPath", "rect", "circle", "ellipse", "line", "polyline",
    "polygon", "image", "linearGradient", "radialGradient", "stop", "pattern", "mask", "marker", "symbol", "title",
    "desc",
})  # fmt: skip
LARGEST = 1_200_000  # bytes of a file that a page takes in
PICTURE = "data:image/png;base64,"
# What matplotlib says of all elements in a style sheet of its own, which on a page would be the page's.
JOINS = "stroke-linejoin:round;stroke-linecap:butt"

ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


@dataclass(frozen=True)
class Graphic:
    """An SVG element as text, its title, and its width over its height."""

    markup: str
    title: str
    ratio: float


def inline(file: Path, prefix: str) -> Graphic:
    """The SVG of a file, its identifiers with a prefix.

    Raises: OSError or ValueError (a parse error among them) where it cannot be taken in.
    """
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file.stat().st_size / 1e6:.1f} MB, too large for this page")
    try:
        root = ET.fromstring(file.read_bytes())
    except ET.ParseError as error:
        raise ValueError(str(error)) from error
    title = next((each.text or "" for each in root.iter(TITLE)), "")
    if root.tag != f"{{{SVG}}}svg":
        raise ValueError("is no SVG")
    _clean(root, prefix)
    ratio = _ratio(root)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.set("style", JOINS)
    return Graphic(ET.tostring(root, encoding="unicode"), "" if title.startswith("Matplotlib v") else title, ratio)


def _ratio(root: ET.Element) -> float:
    try:
        _, _, width, height = (float(number) for number in root.get("viewBox", "").split())
        return width / height
    except (ValueError, ZeroDivisionError):
        return 1.5


def _clean(element: ET.Element, prefix: str) -> None:
    """Keep what draws, and of references those into the figure itself and pixels."""
    for name, value in list(element.attrib.items()):
        plain = name.rpartition("}")[2].lower()
        if plain == "id":
            element.set(name, prefix + value)
        elif plain == "href" and value.startswith("#"):
            element.set(name, f"#{prefix}{value[1:]}")
        elif plain.startswith("on") or (plain == "href" and not value.startswith(PICTURE)):
            del element.attrib[name]
        elif "url(" in value.lower():
            own = re.sub(r"url\(#([\w.:-]+)\)", lambda found: f"url(#{prefix}{found[1]})", value)
            element.set(name, own if own.lower().count("url(") == own.count(f"url(#{prefix}") else "")
    for child in list(element):
        if isinstance(child.tag, str) and child.tag.startswith(f"{{{SVG}}}") and child.tag.rpartition("}")[2] in DRAWN:
            _clean(child, prefix)
        else:
            element.remove(child)
