"""Read the built site once more: dead links and anchors, pictures without words, anything that needs a network."""
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse


class PageReader(HTMLParser):
    "The anchors, links, pictures and loaded files of one page."

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.pictures, self.loads = set(), [], [], []
        self.cell = ""

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get("id"):
            self.ids.add(a["id"])
            if tag == "div" and "cell" in (a.get("class") or "").split():
                self.cell = a["id"]
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag == "img":
            self.pictures.append((a.get("src") or "", (a.get("alt") or "").strip(), self.cell))
        if tag == "script" and a.get("src"):
            self.loads.append(a["src"])
        if tag == "link" and a.get("href") and a.get("rel") in ("stylesheet", "icon"):
            self.loads.append(a["href"])


def read_page(path):
    "What stands in a page."
    reader = PageReader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def target(page, href):
    "The file that a link inside the site means and its anchor; None for a link that leaves the site."
    parts = urlparse(href)
    if parts.scheme or parts.netloc:
        return None
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    return path / "index.html" if path.is_dir() else path, unquote(parts.fragment)


def check_links(path, reader, readers):
    "Dead links and anchors of a page."
    for href in reader.links:
        found = target(path, href)
        if found is None or href in ("#", ""):
            continue
        file, anchor = found
        if not file.exists():
            yield f"{path.name}: link to {href}, a page that is not there"
        elif anchor and file in readers and anchor not in readers[file].ids:
            yield f"{path.name}: link to {href}, an anchor that is not there"


def check_pictures(path, reader):
    "Missing picture files, and pictures without an alternative text."
    for src, alt, cell in reader.pictures:
        found = None if src.startswith("data:") else target(path, src)
        if found and not found[0].exists():
            yield f"{path.name}: picture {src} is not there"
        if not alt:
            where = f"in cell {cell}: write '#| fig-alt: what it shows' on top of the cell" if cell else src[:60]
            yield f"{path.name}: picture without alternative text {where}"


def check_loads(path, reader):
    "Scripts and styles that are missing, or come from another machine."
    for href in reader.loads:
        found = target(path, href)
        if found is None:
            yield f"{path.name}: loads {href} from the network"
        elif not found[0].exists():
            yield f"{path.name}: loads {href}, which is not there"


def check_styles(out):
    "Styles that fetch fonts or pictures from another machine."
    for css in sorted(Path(out).rglob("*.css")):
        for m in re.finditer(r"""(?:url\(|@import\s)['"]?(https?://[^\s'")]+)""", css.read_text(encoding="utf-8")):
            yield f"{css.name}: loads {m[1]} from the network"


def check_text(path):
    "Markup that was not understood, and paths of the machine that built the page."
    page = path.read_text(encoding="utf-8")
    prose = re.sub(r"<(pre|code|script|style|title|head)\b.*?</\1>", "", page, flags=re.S)
    for m in re.finditer(r"\]\([\w./#-]+\)|(?<=\s)–[a-z][\w-]+", re.sub(r"<[^>]+>", "", prose)):
        yield f"{path.name}: shows {m[0]}, a link or an option that was meant as such"
    for m in re.finditer(r"(?<![\w./:-])/(?:root|home|Users|tmp)/[\w./-]+", page):
        yield f"{path.name}: names {m[0]}, a path of the machine that built it"


def check_site(out):
    "Every complaint about the built site, one line each."
    readers = {p.resolve(): read_page(p) for p in sorted(Path(out).glob("*.html"))}
    found = list(check_styles(out))
    for path, reader in readers.items():
        found += [*check_links(path, reader, readers), *check_pictures(path, reader), *check_loads(path, reader),
                  *check_text(path)]
    return found
