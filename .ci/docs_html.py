"""What the renderer leaves to do in the finished pages: formulas, links inside the site, words that must not break."""
import html
import re
from urllib.parse import unquote, urlparse

from docs_math import with_mathml

LINK = re.compile(r'<a\b([^>]*?)\bhref="([^"]+)"([^>]*)>(.*?)</a>', re.S)
ID = re.compile(r'\bid="([^"]+)"')
HYPHENATED = re.compile(r"(?<![\w&;#-])(?:--?[A-Za-z][\w-]*|\w+(?:-\w+)+)")


def ids_of(page):
    "The anchors of a page."
    return {html.unescape(i) for i in ID.findall(page)}


def whole_words(page):
    "Options such as `--epochs` in code are kept on one line."
    def code(m):
        parts = re.split(r"(<[^>]+>)", m[0])
        return "".join(p if p.startswith("<") else HYPHENATED.sub(nowrap, p) for p in parts)

    def nowrap(m):
        return m[0] if len(m[0]) > 32 else f'<span class="nw">{m[0]}</span>'

    return re.sub(r"<code\b.*?</code>", code, page, flags=re.S)


def relative_links(page, site, anchors):
    "Links that nbdev made to the published site lead inside this one; where it guessed an anchor, only the name stays."
    def link(m):
        before, href, after, text = m.groups()
        if not href.startswith(site + "/"):
            return m[0]
        path, _, anchor = href.removeprefix(site + "/").partition("#")
        path = path or "index.html"
        if path not in anchors or anchor and unquote(anchor) not in anchors[path]:
            return text
        return f'<a{before}href="{path}{"#" + anchor if anchor else ""}"{after}>{text}</a>'

    return LINK.sub(link, page)


def source_links(page, sources, repo):
    "The links to a page's source lead to the file that is edited, not to the renderer's copy."
    def fix(m):
        return f"{m[1]}{sources.get(m[2], 'nbs/' + m[2])}{m[3]}"

    return re.sub(rf'(href="{re.escape(repo)}/(?:blob|edit)/main/)nbs/([\w.]+)(" class="toc-action")', fix, page)


def scrolling_tables(page):
    "Tables of an output scroll in their own box."
    table = r'(?<!<div class="sd-table">)(<table\b(?:(?!</table>).)*</table>)'
    return re.sub(table, r'<div class="table-scroll">\1</div>', page, flags=re.S)


def finish_page(page, name, sources, urls, anchors):
    "One page's HTML, done."
    page = with_mathml(page)
    page = relative_links(page, urls["Documentation"], anchors)
    page = source_links(page, sources, urls["Repository"])
    page = whole_words(scrolling_tables(page))
    if name == "404.html":  # served in place of any missing page, at any depth
        base = urlparse(urls["Documentation"]).path.rstrip("/") + "/"
        page = page.replace("<head>", f'<head><base href="{base}">', 1)
    return page


def markdown_copies(out):
    "The Markdown copy of each page under the address that the modules' docstrings name: `losses.html.md`."
    for md in [*out.rglob("*.llms.md"), out / "llms.txt"]:
        text = md.read_text(encoding="utf-8").replace(".llms.md", ".html.md")
        md.write_text(text, encoding="utf-8")
        if md.name.endswith(".llms.md"):
            md.rename(md.with_name(md.name.removesuffix(".llms.md") + ".html.md"))


def finish_site(out, sources, urls):
    "All pages, then their Markdown copies."
    pages = {p.name: p.read_text(encoding="utf-8") for p in sorted(out.glob("*.html"))}
    anchors = {name: ids_of(page) for name, page in pages.items()}
    for name, page in pages.items():
        (out / name).write_text(finish_page(page, name, sources, urls, anchors), encoding="utf-8")
    markdown_copies(out)
    (out / ".nojekyll").touch()
