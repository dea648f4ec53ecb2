"Package metadata and requirements, read from settings.ini; everything else is in pyproject.toml."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
with open(here / "settings.ini", encoding="utf-8") as f:
    parser.read_file(f)
cfg = parser["DEFAULT"]
version = re.search(r'^__version__ = "(.+)"', (here / "hierseg/__init__.py").read_text(encoding="utf-8"), re.M)[1]


def lines(key):
    "The non-empty lines of a setting, without comments."
    return [line for line in map(str.strip, cfg[key].splitlines()) if line and not line.startswith("#")]


def extras():
    "`onnx_requirements` is the extra `onnx`, and so on; `all` is what a user may want together, `dev` left out."
    named = {key.removesuffix("_requirements").replace("_", "-"): lines(key)
             for key in cfg if key.endswith("_requirements")}
    users = sorted({line for name, needed in named.items() if name != "dev" for line in needed})
    return {**named, "all": users}


setup(
    version=version,
    description=cfg["description"],
    author=cfg["author"],
    license_expression=cfg["license"],
    keywords=cfg["keywords"].split(),
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["hierseg", "hierseg.*"]),
    include_package_data=True,  # what MANIFEST.in grafts under hierseg/
    install_requires=lines("requirements"),
    extras_require=extras(),
    entry_points={"console_scripts": [cfg["console_scripts"]], "nbdev": ["hierseg=hierseg._modidx:d"]},
    classifiers=lines("classifiers"),
)
