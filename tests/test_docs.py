"The documentation as it is read: built once, every link followed, every picture told, nothing fetched from elsewhere."
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'.ci'))

import build_docs  # noqa: E402
import docs_commands  # noqa: E402
from docs_check import check_styles, check_text  # noqa: E402
from docs_html import printed_columns, relative_links, special_names, whole_words  # noqa: E402

sys.path.remove(str(ROOT/'.ci'))


RENDER = """import json, sys
sys.path.insert(0, sys.argv[1])
import build_docs
from pathlib import Path
found = build_docs.render_site(Path(sys.argv[2]))
Path(sys.argv[3]).write_text(json.dumps([str(w) for w in found]))"""


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The site's folder and every complaint about it.

    In a process of its own: nbdev runs the exported cells again, whose `@patch` would give this one's classes
    methods from copies of their modules.
    """
    pytest.importorskip('smalldocs')
    pytest.importorskip('latex2mathml')
    folder = tmp_path_factory.mktemp('docs')
    out, found = folder/'site', folder/'warnings.json'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', RENDER, str(ROOT/'.ci'), str(out), str(found)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads(found.read_text())


def text(built, name): return (built[0]/name).read_text(encoding='utf-8')


def test_no_link_or_anchor_is_dead_and_nothing_is_fetched(built):
    assert not [w for w in built[1] if 'alternative text' not in w]


def test_every_picture_has_words(built):
    missing = [w for w in built[1] if 'alternative text' in w]
    assert not missing, '\n'.join(missing)


def test_every_page_is_in_the_sidebar_under_its_section(built):
    index = text(built, 'index.html')
    side = re.search(r'<nav id="quarto-sidebar".*?</nav>', index, re.S)[0]
    listed = set(re.findall(r'href="\.?/?([\w.]+\.html)"', side))
    assert {p.name for p in built[0].glob('*.html')} - {'404.html'} == listed
    titles = [t for t in re.findall(r'<span class="menu-text">([^<]+)</span>', side)]
    assert [t for t in titles if t in ('Start', 'Guides', 'Reference', 'Internals')] == ['Start', 'Guides', 'Reference', 'Internals']


def test_a_page_has_icon_card_dark_theme_and_the_way_to_its_source(built):
    index = text(built, 'index.html')
    for part in ('rel="icon" href="images/favicon.svg"', 'property="og:image"', 'name="twitter:card"', 'data-mode="dark"',
                 'class="bi bi-github"', 'quarto-color-scheme-toggle', 'blob/main/nbs/index.ipynb'):
        assert part in index, part
    assert f'<base href="{urlparse(build_docs.project_urls()["Documentation"]).path}/">' in text(built, '404.html')


def test_docstrings_name_pages_that_the_build_makes(built):
    site = build_docs.project_urls()['Documentation'] + '/'
    named = {m for p in (ROOT/'hierseg').rglob('*.py') for m in re.findall(rf'^Docs: {site}(\S+?)"*$', p.read_text(), re.M)}
    assert named and not {n for n in named if not (built[0]/n).is_file()}


def test_formulas_need_no_script(built):
    pages = [text(built, p.name) for p in built[0].glob('*.html')]
    assert any('<math' in p for p in pages)
    for p in pages:
        assert 'katex' not in p and not re.search(r'class="math (inline|display)">\\', p)


def test_no_address_of_this_site_is_absolute_in_its_pages(built):
    site = build_docs.project_urls()['Documentation']
    for p in built[0].glob('*.html'):
        assert f'<a href="{site}' not in text(built, p.name), p.name


def test_every_guide_opens_in_colab_and_installs_hierseg_there(built):
    guides = [p for p in (ROOT/'nbs').glob('*.ipynb') if build_docs.GUIDES.search(build_docs.page_name(p.stem))]
    assert len(guides) > 10
    for p in guides:
        page = text(built, f'{build_docs.page_name(p.stem)}.html')
        assert f'https://colab.research.google.com/github/hierseg/hierseg/blob/main/nbs/{p.name}' in page and 'images/colab.svg' in page
        assert '! [ -e /content ] && pip install' in p.read_text(), f'{p.name}: put the hidden install cell of the other guides second'
        assert 'pip install -Uqq' not in page


def test_styles_load_nothing_from_elsewhere(built, tmp_path):
    assert not list(check_styles(built[0]))
    (tmp_path/'a.css').write_text('@import url(https://fonts.example/css2?family=A:wght@300;400&display=swap);p{}')
    assert [*check_styles(tmp_path)] == ['a.css: loads https://fonts.example/css2?family=A:wght@300;400&display=swap from the network']


def test_markup_that_was_not_understood_is_found(tmp_path):
    page = tmp_path/'a.html'
    page.write_text('<p>the [<a href="x.html"><code>X</code></a>](y.ipynb) and with –epochs</p><pre>a[0](b) –c</pre>')
    assert [c.split(',')[0] for c in check_text(page)] == ['a.html: shows ](y.ipynb)', 'a.html: shows –epochs']


def test_options_in_a_help_text_are_code():
    import argparse
    parser = argparse.ArgumentParser()
    action = parser.add_argument('--a', help="beside --b-c, 'x|y: [1]', its own [or `q_r`]")
    assert docs_commands.option_help(parser, action) == "beside `--b-c`, `'x\\|y: [1]'`, its own \\[or `q_r`\\]"


def test_printed_columns_scroll_and_prose_wraps():
    table = '<pre><code>a     b\nc     d</code></pre>'
    assert printed_columns(table) == table.replace('<pre>', '<pre class="columns">')
    assert printed_columns('<pre><code>one\ntwo</code></pre>') == '<pre><code>one\ntwo</code></pre>'
    assert 'text code columns"' in printed_columns('<pre class="sourceCode text code"><code>│ a\n└ b</code></pre>')


def test_special_methods_keep_their_underscores():
    page = ('<a href="#loss.mul" id="toc-loss.mul" data-scroll-target="#loss.mul">Loss.mul</a>'
            '<h3 id="loss.mul" class="anchored" data-anchor-id="loss.mul">Loss.<strong>mul</strong></h3>')
    assert special_names(page) == page.replace('loss.mul', 'loss.__mul__').replace('Loss.mul', 'Loss.__mul__').replace(
        'Loss.<strong>mul</strong>', 'Loss.__mul__')


def test_the_command_page_has_every_command_and_option():
    from hierseg.cli import build_parser
    page = docs_commands.commands_page()
    for name, sub in docs_commands.subparsers(build_parser()).items():
        section = re.search(rf'^## {name}\n.*?(?=^## |\Z)', page, re.M | re.S)[0]
        assert 'xample' in section, f'hierseg {name} has no example: .ci/command_examples.json'
        for action in sub._actions:
            assert all(f'{o}' in section for o in action.option_strings)


def test_recorded_examples_still_parse():
    from hierseg.cli import build_parser
    for e in docs_commands.recorded_examples():
        build_parser().parse_args(shlex.split(e['command'])[1:])
        assert e['output'].strip() and 'Traceback' not in e['output']


def test_sections_come_from_the_names_of_the_notebooks():
    pages = ['core.ipynb', 'taxonomy.tree.ipynb', 'taxonomy.tensors.ipynb', 'config.ipynb', 'models.blocks.ipynb',
             'models.unet.ipynb', 'models.zoo.ipynb', 'all.ipynb', 'tutorial.a.ipynb', 'guide.b.ipynb', 'index.ipynb', '404.qmd']
    got = {s['section']: s['contents'] for s in build_docs.sections(pages)}
    assert got['Start'] == ['index.ipynb'] and got['Guides'] == ['tutorial.a.ipynb', 'guide.b.ipynb']
    assert got['Internals'] == ['core.ipynb', 'models.blocks.ipynb', 'all.ipynb']
    assert got['Reference'] == [dict(section='taxonomy', contents=pages[1:3]), 'config.ipynb',
                                dict(section='models', contents=['models.unet.ipynb', 'models.zoo.ipynb'])]


def test_options_do_not_break_and_guessed_anchors_lead_nowhere():
    assert whole_words('<p>a --b <code>x --some-option 3</code></p>') \
        == '<p>a --b <code>x <span class="nw">--some-option</span> 3</code></p>'
    page = '<a href="https://d.x/y/losses.html#dice">d</a> <a href="https://d.x/y/losses.html#_gone">g</a>'
    assert relative_links(page, 'https://d.x/y', {'losses.html': {'dice'}}) == '<a href="losses.html#dice">d</a> g'


def test_a_formula_breaks_before_its_relation_only_outside_brackets():
    pytest.importorskip('latex2mathml')
    from xml.etree import ElementTree as ET

    from docs_math import mathml
    made = mathml(r'L = \sum_l (a = b), \qquad x + 1', display=True)
    assert made.count('<span class="clause">') == 2 and '</span><wbr><span' in made
    parts = re.sub('</?span[^>]*>', '', made).split('<wbr>')
    assert [''.join(ET.fromstring(p).itertext()) for p in parts] == ['L', '=∑l(a=b),', 'x', '+1']
    assert 'munder' in mathml(r'\min_{u} s', display=True) and '>loss<' in mathml(r'\mathrm{loss}_l', display=False)


def test_readme_shows_pictures_by_their_full_address():
    source = build_docs.absolute_links('![a](images/x.jpg) [b](tutorial.own_data.ipynb#c) [d](https://e.f)')
    urls = build_docs.project_urls()
    assert source.startswith('![a](https://raw.githubusercontent.com/hierseg/hierseg/main/nbs/images/x.jpg)')
    assert f"[b]({urls['Documentation']}/tutorial.own_data.html#c)" in source and source.endswith('[d](https://e.f)')


