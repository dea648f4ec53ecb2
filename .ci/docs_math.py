"""Formulas as MathML, made while the site is built: readable without a network, and broken where a line ends.

A page says `\\(x\\)` or `\\[x\\]` in a span of class math. Browsers break no line inside one `<math>`, so a formula
becomes several, cut before its relations and at its wide spaces, and the browser wraps between them.
"""
import html
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

MATHML = "http://www.w3.org/1998/Math/MathML"
MATH_SPAN = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
RELATIONS = set("=≤≥<>≈≠→∈⊂⊆≔∝∼")
SIGNS = set("+-−±·×")
OPEN, CLOSE = set("([{⟨⌊⌈"), set(")]}⟩⌋⌉")
LIMITS = {"min", "max", "sup", "inf", "lim", "argmin", "argmax", "arg max", "arg min"}


def tag(element):
    "An element's name without its namespace."
    return element.tag.rpartition("}")[2]


def words(element):
    "The text of an element and all below it."
    return "".join(element.itertext()).strip()


def limits_below(root):
    "What stands under min, max and `\\operatorname*` goes below them, as on paper."
    for e in root.iter():
        base = e[0] if tag(e) == "msub" and len(e) else None
        if base is not None and tag(base) == "mo" and (words(base) in LIMITS or base.get("movablelimits")):
            e.tag = e.tag.replace("msub", "munder")
            base.attrib.pop("movablelimits", None)


def names_apart(root):
    "A thin space after the name of a function, unless a parenthesis follows; one `mi` for the letters of a word."
    for parent in root.iter():
        children = list(parent)
        if len(children) > 1 and all(tag(c) == "mi" and c.get("mathvariant") == "normal" for c in children):
            for c in children:
                parent.remove(c)
            word = ET.SubElement(parent, f"{{{MATHML}}}mi", mathvariant="normal")
            word.text = "".join(words(c) for c in children)
        elif tag(parent) == "mrow":
            for child, after in reversed(list(pairwise(children))):
                base = child[0] if tag(child) in ("msub", "munder", "msup", "msubsup") and len(child) else child
                name = tag(base) in ("mi", "mo") and len(words(base)) > 1 and words(base).isalpha()
                if name and not (tag(after) == "mspace" or tag(after) == "mo" and words(after) in OPEN):
                    space = ET.Element(f"{{{MATHML}}}mspace", width="0.167em")
                    parent.insert(list(parent).index(child) + 1, space)


def depth_change(element):
    "+1 for an opening bracket, -1 for a closing one, also where it bears an index."
    base = element[0] if tag(element) in ("msub", "msup", "msubsup") and len(element) else element
    return 0 if tag(base) != "mo" else (words(base) in OPEN) - (words(base) in CLOSE)


def pieces(children):
    "The children of a row, cut before relations and signs outside brackets, and at wide spaces, which are kept as one."
    row, depth, done = [], 0, []
    for child in children:
        wide = tag(child) == "mspace" and float(re.sub(r"[^\d.]", "", child.get("width", "0")) or 0) >= 1
        breaks = tag(child) == "mo" and words(child) in RELATIONS | SIGNS
        if depth == 0 and row and (wide or breaks):
            done.append(row)
            row = []
        if breaks:
            child.set("form", "infix")
        row.append(child)
        depth += depth_change(child)
    return [*done, row] if row else done


def mathml(tex, display):
    "One formula as `<math>` elements, which a line may break between; what wide spaces part stays together if it can."
    from latex2mathml.converter import convert

    root = ET.fromstring(convert(tex, display="block" if display else "inline"))
    limits_below(root)
    names_apart(root)
    row = root[0] if len(root) == 1 and tag(root[0]) == "mrow" else root
    clauses = [[]]
    for piece in pieces(list(row)):
        math = ET.Element(f"{{{MATHML}}}math", **({"displaystyle": "true"} if display else {}))
        ET.SubElement(math, f"{{{MATHML}}}mrow").extend(piece)
        if tag(piece[0]) == "mspace":
            math.set("class", "after-gap")
            math[0].remove(piece[0])
            clauses.append([])
        clauses[-1].append(re.sub(r"ns0:|:ns0", "", ET.tostring(math, encoding="unicode")))
    if len(clauses) == 1:
        return "<wbr>".join(clauses[0])
    return "<wbr>".join(f'<span class="clause">{"<wbr>".join(parts)}</span>' for parts in clauses)


def with_mathml(page):
    "A page's HTML with its formulas as MathML, and without the script from elsewhere that would have drawn them."
    def formula(m):
        return f'<span class="math {m[1]}">{mathml(html.unescape(m[2]).strip(), m[1] == "display")}</span>'

    page = MATH_SPAN.sub(formula, page)
    return re.sub(r'<(?:link rel="stylesheet" href|script src)="[^"]*/katex[^"]*"[^>]*>(?:</script>)?', "", page)
