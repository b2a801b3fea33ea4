"""The README says what is true: its commands are the ones that are there, and that CI runs.  What concerns the
examples of all pages, and the site that is made of them, is in `test_site`.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_test_command_of_the_readme():
    command = next(line for line in README.splitlines() if line.endswith("-m pytest") and "venv" in line)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_rooms_in_the_readme_are_those_of_the_source():
    named = re.findall(r"`([a-z]+(?:\.py|/))`", "\n".join(re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)))
    source = ROOT / "objstore"
    rooms = {path.name + "/" * path.is_dir() for path in source.iterdir() if not path.name.startswith("__")}
    assert set(named) == rooms - {"py.typed"}
