"Package metadata and requirements, read from settings.ini; everything else is in pyproject.toml."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
version = re.search(r'^__version__ = "(.+)"', (here / "hierseg/__init__.py").read_text(encoding="utf-8"), re.M)[1]


def lines(key):
    "The non-empty lines of a setting."
    return [line for line in cfg[key].splitlines() if line.strip()]


setup(
    version=version,
    description=cfg["description"],
    author=cfg["author"],
    license=cfg["license"],
    keywords=cfg["keywords"].split(),
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["hierseg", "hierseg.*"]),
    package_data={"hierseg": ["*.yaml"]},
    install_requires=lines("requirements"),
    extras_require={"dev": lines("dev_requirements")},
    entry_points={"console_scripts": [cfg["console_scripts"]], "nbdev": ["hierseg=hierseg._modidx:d"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
