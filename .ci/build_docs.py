"""Build the documentation site into `_docs/` and README.md from `nbs/`, with or without Quarto.

    python .ci/build_docs.py            # site and README
    python .ci/build_docs.py --readme   # README only
    python .ci/build_docs.py --strict   # fail on any warning: pictures without words, dead links

A notebook's number decides where its page stands in the sidebar, see `sections`. nbdev processes the notebooks
(`nbdev.serve.proc_nbs`), smalldocs renders them, `docs_html` finishes the pages and `docs_check` reads them once more.
"""
import argparse
import json
import re
import shutil
import sys
import warnings
from ast import Import, ImportFrom
from pathlib import Path
from urllib.parse import urlparse

sys.path.insert(0, str(Path(__file__).resolve().parent))
ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"

START = ["index", "install"]
GUIDES = re.compile(r"(tutorial|guide)\.|^(gallery|faq|cite|benchmarks)$")
REFERENCE_FIRST = ["command_line"]
INTERNALS = ["core", "models.blocks", "all", "contributing", "changelog"]
UNLISTED = ["404"]
MADE = {"command_line.qmd": "hierseg/cli.py", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md",
        "benchmarks.md": "benchmarks/results.md"}


def page_name(name):
    "The page's name without the number that orders the notebooks, as nbdev's links have it."
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", name)


def project_urls():
    "Repository and documentation as pyproject.toml has them."
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return {key: re.search(rf'^{key} = "([^"]+?)/?"', text, re.M)[1] for key in ("Repository", "Documentation")}


# ---- the front page is README.md

def output_text(cell):
    "The plain text a code cell printed, indented as README shows it."
    texts = ["".join(o.get("text") or o.get("data", {}).get("text/plain", "")) for o in cell.get("outputs", [])]
    return "".join(texts).rstrip()


def absolute_links(source):
    "Pictures and pages by their full address: README.md is read on package indexes too."
    urls = project_urls()
    raw = urls["Repository"].replace("https://github.com", "https://raw.githubusercontent.com") + "/main/nbs/"
    source = re.sub(r"\]\((?:nbs/)?(images/[^)\s]+)", rf"]({raw}\1", source)
    return re.sub(r"\]\((\w[\w.]*)\.(?:ipynb|qmd)(#[^)\s]*)?\)",
                  lambda m: f"]({urls['Documentation']}/{page_name(m[1])}.html{m[2] or ''})", source)


def readme_text():
    "README.md from the front page: prose, code and printed text; cells marked `#| hide` are left out."
    parts = ["<!-- made from nbs/index.ipynb by .ci/build_docs.py: edit there -->"]
    for cell in json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            source = re.sub(r"^> ", "", source, flags=re.M) if source.startswith("# ") else source
            parts.append(absolute_links(source))
        elif source and not re.match(r"#\s*\|\s*(hide|default_exp)", source):
            parts.append(f"```python\n{source}\n```")
            if text := output_text(cell):
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


# ---- the sidebar

def by_room(pages):
    "Reference pages in notebook order, those of a package with several modules as a section of its own."
    rooms = {}
    for page in pages:
        rooms.setdefault(Path(page).stem.partition(".")[0], []).append(page)
    out = []
    for room, inside in rooms.items():
        out += [{"section": room, "contents": inside}] if len(inside) > 1 else inside
    return out


def sections(pages):
    "Start, Guides, Reference and Internals from the names of the pages, given in notebook order."
    stem = {p: p.rpartition(".")[0] for p in pages}
    chosen = {name: [p for s in names for p in pages if stem[p] == s]
              for name, names in (("Start", START), ("first", REFERENCE_FIRST), ("Internals", INTERNALS))}
    guides = [p for p in pages if GUIDES.search(stem[p])]
    taken = {*guides, *(p for part in chosen.values() for p in part), *(p for p in pages if stem[p] in UNLISTED)}
    reference = chosen["first"] + by_room([p for p in pages if p not in taken])
    parts = {"Start": chosen["Start"], "Guides": guides, "Reference": reference, "Internals": chosen["Internals"]}
    return [{"section": name, "contents": inside} for name, inside in parts.items() if inside]


# ---- the pages

def own_links(text, names):
    "Links between notebooks as links between pages."
    return re.sub(r"\]\((\w[\w.]*\.ipynb)", lambda m: f"]({names.get(m[1], page_name(m[1]))}", text)


def notebook_links(old):
    "A line of links for a guide: open it in Colab, or get the notebook."
    repo = urlparse(project_urls()["Repository"]).path.strip("/")
    path = f"{repo}/blob/main/nbs/{old}"
    return (f"::: {{.notebook-links}}\n[![Open in Colab](images/colab.svg)](https://colab.research.google.com/github/{path}) "
            f"[The notebook](https://github.com/{path})\n:::\n")


def publish_notebook(path, names):
    "A processed notebook under its public name, its links on the other public names."
    new = names[path.name]
    nb = json.loads(own_links(path.read_text(encoding="utf-8"), names))
    path.unlink()
    for cell in nb["cells"]:
        if cell["cell_type"] == "raw":
            lines = "".join(cell["source"]).splitlines(keepends=True)
            cell["source"] = [line for line in lines if not line.startswith("output-file:")]
    if GUIDES.search(Path(new).stem):
        links = {"cell_type": "markdown", "id": "links", "metadata": {}, "source": notebook_links(path.name)}
        nb["cells"].insert(1, links)
    path.with_name(new).write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")


def pages_from_files(proc):
    "Pages that no notebook holds: every command, what changed, how to take part."
    from docs_commands import commands_page

    (proc / "command_line.qmd").write_text(commands_page(), encoding="utf-8")
    for page, source in MADE.items():
        if source.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            (proc / page).write_text(re.sub(r"\]\((?:nbs/)?(\w[\w.]*\.ipynb)", r"](\1", text), encoding="utf-8")


def write_config(proc, pages):
    "The site's settings with the sidebar, and the addresses that pyproject.toml has."
    import yaml

    cfg = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))
    cfg.pop("metadata-files", None)
    urls = project_urls()
    cfg["website"].update({"site-url": urls["Documentation"], "repo-url": urls["Repository"], "repo-branch": "main",
                           "llms-txt": True})
    cfg["website"]["sidebar"]["contents"] = sections(pages)
    (proc / "_quarto.yml").write_text(yaml.safe_dump(cfg, sort_keys=False), encoding="utf-8")


def prepare(proc):
    "Everything that smalldocs renders, in one folder. Gives page to the file in the repository that it comes from."
    names = {nb.name: page_name(nb.name) for nb in sorted(NBS.glob("*.ipynb"))}
    for nb in sorted(proc.glob("*.ipynb")):
        publish_notebook(nb, names)
    for page in proc.glob("*.qmd"):
        page.write_text(own_links(page.read_text(encoding="utf-8"), names), encoding="utf-8")
    written = sorted(p.name for p in proc.glob("*.qmd"))
    pages_from_files(proc)
    shutil.copy2(NBS / "styles.css", proc / "styles.css")
    shutil.copytree(NBS / "images", proc / "images", dirs_exist_ok=True)
    write_config(proc, [*names.values(), *written, *MADE])
    return {**{new: f"nbs/{old}" for old, new in names.items()}, **{p: f"nbs/{p}" for p in written}, **MADE}


def run_only_what_docs_need():
    """Make nbdev run again, for `show_doc`, only exported cells and those that do nothing but import.

    Its own rule also runs cells that import something and go on; what they go on with may need cells it does not run.
    """
    from nbdev import processors

    rule = processors._do_eval

    def needed(cell):
        if not rule(cell):
            return False
        if cell.directives_.keys() & {"export", "exports", "exporti", "exec_doc"}:
            return True
        trees = cell.parsed_()
        return bool(processors._show_docs(trees)) or all(isinstance(t, (Import, ImportFrom)) for t in trees)

    processors._do_eval = needed


def render_site(out=ROOT / "_docs"):
    "Process the notebooks with nbdev, render them, finish the pages. Gives the warnings."
    from docs_check import check_site
    from docs_html import finish_site
    from nbdev.serve import proc_nbs
    from smalldocs.site import build

    run_only_what_docs_need()
    with warnings.catch_warnings():  # what numpydoc thinks of other packages' docstrings is not for our pages
        warnings.simplefilter("ignore")
        proc = Path(proc_nbs(str(NBS), force=True, n_workers=0))
    sources = prepare(proc)
    complaints = build(proc, quiet=True).warnings
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(proc / "_docs", out)
    shutil.rmtree(proc)
    finish_site(out, sources, project_urls())
    return [*complaints, *check_site(out)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write README.md only")
    parser.add_argument("--strict", action="store_true", help="fail on any warning")
    args = parser.parse_args()
    (ROOT / "README.md").write_text(readme_text(), encoding="utf-8")
    print("README.md written")
    if not args.readme:
        found = render_site()
        print("the site is in _docs; open index.html")
        for warning in found:
            print(f"warning: {warning}", file=sys.stderr)
        sys.exit(bool(found) if args.strict else 0)
