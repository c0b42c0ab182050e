"""Reading a report's page back: its elements, words and tables."""

import json
from xml.etree import ElementTree


def save(folder, name, data):
    """A run's directory with one document in it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(data))
    return folder


def read(path):
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def words(element):
    return " ".join("".join(element.itertext()).replace("\u00a0", " ").split())


def within(root, name):
    return next((one for one in root.iter() if one.get("id") == name), None)


def table(element, place=0):
    """The cells of a table, by default the first, in words, by row; the first row are the heads."""
    return [[words(cell) for cell in row] for row in list(element.iter("table"))[place].iter("tr")]
