"""Build the documentation site into `_docs/` and README.md from `nbs/index.ipynb`, with or without Quarto.

    python .ci/build_docs.py            # site and README
    python .ci/build_docs.py --readme   # README only
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"


def page_name(path):
    "The page's name without the number that orders the notebooks, as nbdev's links have it."
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name)


def render_site():
    "Process the notebooks with nbdev, give the pages their public names, render them."
    from nbdev.serve import proc_nbs

    proc = Path(proc_nbs(str(NBS), force=True, n_workers=0))
    names = {nb.name: page_name(nb) for nb in sorted(proc.glob("*.ipynb"))}
    for old, new in names.items():
        text = (proc / old).read_text(encoding="utf-8")
        (proc / old).unlink()
        (proc / new).write_text(re.sub(r"\]\((\w[\w.]*\.ipynb)", lambda m: f"]({names.get(m[1], m[1])}", text), encoding="utf-8")
    write_sidebar(proc / "_quarto.yml", list(names.values()))
    shutil.copy2(NBS / "styles.css", proc / "styles.css")
    shutil.copytree(NBS / "images", proc / "images", dirs_exist_ok=True)
    subprocess.run([sys.executable, "-m", "smalldocs.cli", "render", str(proc)], check=True)
    out = ROOT / "_docs"
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(proc / "_docs", out)
    print(f"the site is in {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}; open index.html")


def write_sidebar(config, pages):
    "List the pages in notebook order, the front page first and tutorials before the modules."
    import yaml

    cfg = yaml.safe_load(config.read_text())
    front = [p for p in pages if p == "index.ipynb"] + [p for p in pages if p.startswith("tutorial")]
    cfg["website"]["sidebar"]["contents"] = front + [p for p in pages if p not in front]
    config.write_text(yaml.safe_dump(cfg, sort_keys=False))


def output_text(cell):
    "The plain text a code cell printed, indented as README shows it."
    texts = ["".join(o.get("text") or o.get("data", {}).get("text/plain", "")) for o in cell.get("outputs", [])]
    return "".join(texts).rstrip()


def readme_text():
    "README.md from the front page: prose, code and printed text; cells marked `#| hide` are left out."
    parts = ["<!-- made from nbs/index.ipynb by .ci/build_docs.py: edit there -->"]
    for cell in json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            source = re.sub(r"^> ", "", source, flags=re.M) if source.startswith("# ") else source
            parts.append(source.replace("](images/", "](nbs/images/"))
        elif source and not re.match(r"#\s*\|\s*(hide|default_exp)", source):
            parts.append(f"```python\n{source}\n```")
            if text := output_text(cell):
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write README.md only")
    args = parser.parse_args()
    (ROOT / "README.md").write_text(readme_text(), encoding="utf-8")
    print("README.md written")
    if not args.readme:
        render_site()
