"""What the renderer leaves to do in the finished pages: formulas, links inside the site, words that must not break,
printed columns that must not wrap, fonts that come from no network."""
import html
import re
from urllib.parse import unquote, urlparse

from docs_math import with_mathml

LINK = re.compile(r'<a\b([^>]*?)\bhref="([^"]+)"([^>]*)>(.*?)</a>', re.S)
REMOTE_IMPORT = re.compile(r"""@import\s+(?:url\(['"]?https?://[^)]*\)|['"]https?://[^'"]*['"])\s*;?""")
ID = re.compile(r'\bid="([^"]+)"')
COLUMNS = re.compile(r"\S {3,}\S|^\||[│├└]")
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


def special_names(page):
    "`Loss.__mul__` in headings and the contents, which the renderer takes for bold type; its anchor too."
    heading = r'(<h\d id=")([\w.]+)("[^>]*data-anchor-id=")[\w.]+(">[\w.]+\.)<strong>(\w+)</strong>(</h\d>)'
    for _, anchor, _, owner, name, _ in re.findall(heading, page):
        owner, new = owner[2:], f"{anchor.removesuffix(name)}__{name}__"
        page = page.replace(f"#{anchor}\"", f"#{new}\"").replace(f">{owner}{name}</a>", f">{owner}__{name}__</a>")
        page = page.replace(f'id="toc-{anchor}"', f'id="toc-{new}"')
        page = re.sub(rf'<h(\d) id="{re.escape(anchor)}"([^>]*data-anchor-id=)"[^"]+">{re.escape(owner)}<strong>{name}</strong>',
                      rf'<h\1 id="{new}"\2"{new}">{owner}__{name}__', page)
    return page


def printed_columns(page):
    "Output that is set in columns (tables, trees) scrolls instead of wrapping."
    def mark(m):
        lines = html.unescape(re.sub(r"<[^>]+>", "", m[3])).splitlines()
        aligned = sum(bool(COLUMNS.search(line)) for line in lines)
        if aligned < 2:
            return m[0]
        names = re.search(r'class="([^"]*)"', m[1])
        attrs = m[1].replace(names[0], f'class="{names[1]} columns"') if names else f'{m[1]} class="columns"'
        return f"<pre{attrs}>{m[2]}{m[3]}</pre>"

    return re.sub(r'<pre((?: class="sourceCode text[^"]*")?)>(<code[^>]*>)(.*?)</pre>', mark, page, flags=re.S)


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
    page = whole_words(printed_columns(scrolling_tables(page)))
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


def fonts_at_hand(out):
    "The themes ask another machine for their fonts: the browser's own do."
    for css in out.rglob("*.css"):
        text = css.read_text(encoding="utf-8")
        if REMOTE_IMPORT.search(text):
            css.write_text(REMOTE_IMPORT.sub("", text), encoding="utf-8")


def finish_site(out, sources, urls):
    "All pages, then their Markdown copies."
    fonts_at_hand(out)
    pages = {p.name: special_names(p.read_text(encoding="utf-8")) for p in sorted(out.glob("*.html"))}
    anchors = {name: ids_of(page) for name, page in pages.items()}
    for name, page in pages.items():
        (out / name).write_text(finish_page(page, name, sources, urls, anchors), encoding="utf-8")
    markdown_copies(out)
    (out / ".nojekyll").touch()
