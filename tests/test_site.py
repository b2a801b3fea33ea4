"""The pages of docs/ say what is true: their examples run, their links lead somewhere, and a site is made of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import unicodedata
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import programs
import pytest

import objstore

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONFIGURATION = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
TEXTS = {path: path.read_text() for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]}

NOT_WRITTEN_YET: set[str] = set()

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {"python", "sh", "text", "json"}


def name_of(page):
    return str(page.relative_to(ROOT))


def examples(text):
    """The Python examples of a page, as one program."""
    return "\n".join(body for language, body in BLOCK.findall(text) if language == "python")


PAGES_WITH_EXAMPLES = [page for page, text in TEXTS.items() if examples(text)]

RUN = """
    import os, runpy, sys
    os.chdir(sys.argv[1])
    runpy.run_path(os.path.join(sys.argv[1], "program.py"), run_name="__main__")
"""


class TestTheExamples:
    @pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES, ids=name_of)
    def test_they_run(self, page, request, tmp_path):
        """One after the other, as a script, with warnings as errors; `db1` and `db2` are servers of the tests."""
        program = examples(TEXTS[page])
        named, addresses = "db1:6379,db2:6379", ""
        if page.name == "servers.md":
            assert named in program
            addresses = ",".join(node.address for node in request.getfixturevalue("cluster").nodes)
        (tmp_path / "program.py").write_text(program.replace(named, addresses or named))
        programs.run(RUN, tmp_path)

    def test_there_are_some_where_they_are_promised(self):
        names = {name_of(page) for page in PAGES_WITH_EXAMPLES}
        pages = ["index", "quickstart", "guide", "coming-from", "caching", "security", "servers", "format"]
        recipes = [f"docs/recipes/{path.name}" for path in (DOCS / "recipes").glob("*.md")]
        assert len(recipes) >= 4
        assert {"README.md", *recipes, *(f"docs/{page}.md" for page in pages)} <= names

    def test_a_block_says_what_it_is(self):
        """So none is left out by a typing error."""
        unmarked = [
            (name_of(page), language)
            for page, text in TEXTS.items()
            for language, _ in BLOCK.findall(text)
            if language not in LANGUAGES
        ]
        assert unmarked == []

    def test_an_example_that_fails_is_noticed(self, tmp_path):
        (tmp_path / "program.py").write_text(examples("```python\nassert 1 == 2\n```\n"))
        with pytest.raises(AssertionError, match="exit status 1"):
            programs.run(RUN, tmp_path)


def pages_in(nav):
    """The pages that a navigation names, at any depth."""
    for entry in nav:
        for what in entry.values():
            if isinstance(what, list):
                yield from pages_in(what)
            else:
                yield what


def test_the_navigation_has_every_page_and_no_other():
    named = list(pages_in(CONFIGURATION["nav"]))
    pages = {str(page.relative_to(DOCS)) for page in TEXTS if page.is_relative_to(DOCS)}
    assert len(named) == len(set(named))
    assert pages - set(named) == set()
    assert set(named) - pages <= NOT_WRITTEN_YET


def test_the_reference_has_every_public_name():
    documented = [
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: objstore\.(\w+)$", TEXTS[page], re.MULTILINE)
    ]
    modules = {path.stem for path in (ROOT / "objstore").iterdir()}
    public = {name for name in dir(objstore) if not name.startswith("_") and name not in modules}
    assert len(documented) == len(set(documented))
    assert set(documented) == public


class TestTheLinks:
    LINK = re.compile(r"\]\(([^)\s]+)\)")

    @staticmethod
    def prose(text):
        return re.sub(r"`[^`\n]*`", "``", BLOCK.sub("", text))

    @staticmethod
    def anchors(text):
        """The anchors of the headings of a page, as the site makes them."""
        for heading in re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
            plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
            yield re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())

    def broken(self, page, text):
        """The links of a page that lead nowhere, and those from the site to outside of it."""
        for link in self.LINK.findall(self.prose(text)):
            target = urlsplit(link)
            if target.scheme:
                continue
            place = (page.parent / target.path).resolve() if target.path else page
            is_inside = place.is_relative_to(DOCS if page.is_relative_to(DOCS) else ROOT)
            leads = is_inside and place.is_file()
            if not leads or (target.fragment and target.fragment not in self.anchors(TEXTS[place])):
                yield link

    @pytest.mark.parametrize("page", TEXTS, ids=name_of)
    def test_they_lead_somewhere(self, page):
        assert list(self.broken(page, TEXTS[page])) == []

    def test_it_would_notice(self):
        text = "[a](guide.md#keys) [b](gone.md) [c](guide.md#gone) [d](../setup.cfg) `[e](gone.md)` [f](#here)\n# Here"
        assert list(self.broken(DOCS / "index.md", text)) == ["gone.md", "guide.md#gone", "../setup.cfg", "#here"]


class Resources(HTMLParser):
    """What a page loads, and the anchors it has; links to be followed are none."""

    def __init__(self, text):
        super().__init__()
        self.loaded = []
        self.anchors = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        said = dict(attributes)
        self.anchors.add(said.get("id"))
        self.loaded += [said[name] for name in ("src", "srcset", "data", "poster") if said.get(name)]
        if tag == "link" and said.get("rel") != "canonical":
            self.loaded.append(said.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, made of copies in a place of its own; strictly, so without a warning."""
    if not (find_spec("zensical") and find_spec("mkdocstrings_handlers")):
        pytest.skip("the extra `docs` is not installed")
    place = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", place)
    for name in ("docs", "objstore"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    made = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stdout + made.stderr
    return place / "site"


class TestTheBuiltSite:
    def test_it_has_every_page(self, site):
        for page in TEXTS:
            if page.is_relative_to(DOCS):
                path = page.relative_to(DOCS).with_suffix("")
                assert (site / (path.parent if path.name == "index" else path) / "index.html").is_file(), path

    def test_it_loads_nothing_from_another_host(self, site):
        pages = list(site.rglob("*.html"))
        loaded = {url for page in pages for url in Resources(page.read_text()).loaded}
        for sheet in site.rglob("*.css"):
            loaded |= set(re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", sheet.read_text()))
        assert len(pages) > 20
        assert any(url.endswith(".css") for url in loaded)
        assert [url for url in loaded if urlsplit(url).netloc] == []

    def test_the_reference_describes_methods(self, site):
        anchors = Resources((site / "reference/stores/index.html").read_text()).anchors
        assert {"objstore.Store", "objstore.Store.range", "objstore.Store.memoize", "objstore.Cache.stats"} <= anchors


def test_ci_builds_the_site():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    install, build = ".venv/bin/pip install -q '.[docs]'", ".venv/bin/python -m zensical build --strict --clean"
    assert lines.index(install) < lines.index(build)
