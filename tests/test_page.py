"""Pages of HTML: whole, escaped, with their pictures inside."""

import base64
import re
import xml.dom.minidom
from html.parser import HTMLParser

import pytest

from bimt_fast._page import Page


class Reader(HTMLParser):
    """Tags that are closed in the order they were opened, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.seen, self.words = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.words.append(text.strip())


def read(page: Page) -> Reader:
    reader = Reader()
    reader.feed(page.html())
    assert not reader.open
    return reader


def images(page: Page) -> list[tuple[str, bytes, dict]]:
    found = [attributes for tag, attributes in read(page).seen if tag == "img"]
    sources = [re.fullmatch(r"data:([a-z/+]+);base64,(.+)", a["src"]).groups() for a in found]
    return [(kind, base64.b64decode(data), a) for (kind, data), a in zip(sources, found, strict=True)]


def test_text_is_escaped(tmp_path):
    nasty = """<script>alert("1 & 2")</script> 'é'"""
    page = Page(nasty)
    page.heading(nasty)
    page.text(f"{nasty}\n\nsecond")
    page.table([nasty, "b"], [(nasty, None), (0.123456, 7), (True, "7")])
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    page.figure(tmp_path / "a.gif", caption=nasty)
    reader = read(page)
    assert not any(tag == "script" for tag, _ in reader.seen)
    assert reader.words.count(nasty) == 7 and "second" in reader.words
    ((kind, content, attributes),) = images(page)
    assert (kind, content, attributes["alt"]) == ("image/gif", b"GIF89a", nasty)
    cells = re.findall(r"<td.*?</td>", page.html())[1:]
    assert cells[:3] == ["<td>-</td>", '<td class="number">0.1235</td>', '<td class="number">7</td>']
    assert cells[3:] == ["<td>True</td>", "<td>7</td>"]


def test_small_figures_are_vectors_and_large_ones_pixels():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'bimt_fast[plot]'")
    from matplotlib.figure import Figure

    page = Page("figures")
    for points in (10, 20_000):
        figure = Figure(figsize=(4, 2))
        figure.subplots().scatter(range(points), range(points))
        page.figure(figure, "points", alt=f"{points} points")
    (svg, drawn, _), (png, pixels, attributes) = images(page)
    assert svg == "image/svg+xml" and xml.dom.minidom.parseString(drawn).documentElement.tagName == "svg"
    assert png == "image/png" and pixels.startswith(b"\x89PNG")
    assert 300 < int(attributes["width"]) < 420 and attributes["alt"] == "20000 points"


def test_written_at_once(tmp_path):
    page, path = Page("t"), tmp_path / "page.html"
    page.write(path)
    page.text("more")
    page.write(str(path))
    assert path.read_text(encoding="utf-8") == page.html() and [*tmp_path.iterdir()] == [path]
    assert "http" not in page.html() and page.html().startswith("<!DOCTYPE html>")
    with pytest.raises(OSError):
        page.write(tmp_path / "missing" / "page.html")


def test_what_is_refused(tmp_path):
    page = Page("t")
    with pytest.raises(TypeError, match="title must be a string, was int"):
        Page(1)
    with pytest.raises(TypeError, match="text must be a string, was NoneType"):
        page.text(None)
    with pytest.raises(TypeError, match="figure must be a matplotlib Figure or a path, was int"):
        page.figure(1)
    with pytest.raises(ValueError, match=r"figure must be a file that ends in \.gif, .*, was '.*a\.doc'"):
        page.figure(tmp_path / "a.doc")
    with pytest.raises(ValueError, match="rows must hold 2 cells, one a head, had one of 1"):
        page.table(["a", "b"], [("c",)])
    assert "<table>" not in page.html()
