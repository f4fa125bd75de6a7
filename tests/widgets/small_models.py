"""The small random models of tests/unit, in float64, and what a harmless page is."""

from html.parser import HTMLParser
from typing import Any

from explain_models import llava
from scan_models import cobra, picture

__all__ = ["ANSWER", "HOSTILE", "QUESTION", "Page", "cobra", "harmless", "llava", "pair", "picture"]

QUESTION = "Where is the cat?"
ANSWER = "The cat is left of it."
HOSTILE = '<script src="http://evil.example">1</script>'


def pair() -> dict[str, Any]:
    """A transformer and a Mamba that see the same 4 x 4 patches."""
    return {"llava": llava(layers=2), "cobra": cobra(layers=2)}


class Page(HTMLParser):
    """What stands in a page: tags with their attributes, and texts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def harmless(page: str) -> Page:
    """The page, after looking whether it runs nothing, asks for nothing, and every picture has a text."""
    found = Page(page)
    for tag, attributes in found.tags:
        assert tag not in ("script", "link", "iframe", "object", "style"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "data", "srcset"):
                assert value.startswith("data:image/png;base64,"), value[:60]
            assert name != "style" or "url(" not in value
    assert all(len(image["alt"]) > 20 for image in found.images())
    return found
