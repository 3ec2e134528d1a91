"""The page of a card: self-contained, inert, with its pictures drawn in it."""

from html.parser import HTMLParser

from sgg_core.page import render_page

CARD = """---
base_model: "x"
---

# A \\<b\\>bold\\</b\\> title

Text with <script>alert(1)</script> & [a link](javascript:alert(1)).

![Loss](plots/loss.png)

![Unknown](plots/none.png)

| label | count |
| --- | --- |
| \\<img src=x onerror=alert(1)\\> | 3 |
"""
PAGE = render_page(CARD, {"plots/loss.png": "<svg><path d='M0 0'/></svg>"})


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def elements():
    parser = Elements()
    parser.feed(PAGE)
    return parser.found


def test_the_page_runs_nothing_and_loads_nothing():
    for tag, attributes in elements():
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert not any(name.startswith("on") for name in attributes)
        assert not attributes.get("href", "").startswith("javascript")
        assert tag != "img" or attributes["src"] == "plots/none.png"
    (policy,) = [a["content"] for _, a in elements() if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_pictures_are_drawn_in_the_page_and_tables_scroll():
    assert '<figure role="img" aria-label="Loss"><svg><path d=\'M0 0\'/></svg></figure>' in PAGE
    assert '<div class="scroll"><table>' in PAGE and "</table>\n</div>" in PAGE
    assert "<p><figure" not in PAGE


def test_the_title_is_the_cards_and_names_stay_text():
    assert "<title>A &lt;b&gt;bold&lt;/b&gt; title</title>" in PAGE
    assert "base_model" not in PAGE
    assert "&lt;img src=x onerror=alert(1)&gt;" in PAGE
