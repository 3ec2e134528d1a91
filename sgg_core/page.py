"""A model card as one page for browsers: no scripts, nothing from elsewhere, light or dark as the reader has it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from string import Template

from markdown_it import MarkdownIt

from sgg_core.report import PAGE_POLICY

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --paper: #ffffff; --ink: #222222; --muted: #6b6b6b; --rule: #e4e4e4; --shade: #f6f6f4;
  --blue: #1f6fb2; --orange: #b85c00; --red: #c0392b; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e6e6e3; --muted: #a0a4a8; --rule: #34383d; --shade: #1f2226;
    --blue: #6cb2eb; --orange: #f2a154; --red: #f0776a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 46rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); font-size: 1.25rem; }
h3 { margin-top: 2rem; font-size: 1.05rem; }
code { font: 0.875em ui-monospace, monospace; }
pre { padding: 0.75rem 1rem; overflow-x: auto; background: var(--shade); border-radius: 6px; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 1rem 0.35rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
th { color: var(--muted); font-weight: 600; }
td { max-width: 20rem; overflow-wrap: break-word; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 30rem; height: auto; }
</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def render_page(card: str, drawings: Mapping[str, str]) -> str:
    """The page of a card in Markdown. Its pictures are replaced by `drawings`, SVG by the path that the card names.

    HTML within the card stays text, and a picture without a drawing is its description.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    _, _, text = card.partition("\n---\n")  # the front matter is for the hub
    tokens = markdown.parse(text)
    title = next(after.content for token, after in pairwise(tokens) if token.type == "heading_open")
    parts: list[str] = []
    for token in tokens:
        image = token.children[0] if token.type == "inline" and token.children else None
        if image is not None and image.type == "image" and (drawing := drawings.get(str(image.attrs["src"]))):
            parts.append(f'<figure role="img" aria-label="{escape(image.content)}">{drawing}</figure>')
            continue
        rendered = markdown.renderer.render([token], markdown.options, {})
        wrapped = {"table_open": f'<div class="scroll">{rendered}', "table_close": f"{rendered}</div>"}
        parts.append(wrapped.get(token.type, rendered))
    body = "".join(parts).replace("<p><figure", "<figure").replace("</figure></p>", "</figure>")
    title = "".join(child.content for child in markdown.parseInline(title)[0].children or ())
    return PAGE.substitute(policy=PAGE_POLICY, title=escape(title), body=body)
