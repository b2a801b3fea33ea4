"""The documents say what is true: their examples run, their commands are the ones that CI runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def run_examples(page, directory, at_least, servers=None):
    """Run all the Python examples of a page as one program; `servers` take the place of those that it names."""
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert len(examples) >= at_least
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = "\n".join(examples)
    if servers is not None:
        program = program.replace("db1:6379,db2:6379", ",".join(node.address for node in servers.nodes))
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=directory, env=environment, check=True)


def test_the_examples_of_the_readme_run(tmp_path):
    run_examples("README.md", tmp_path, at_least=5)


def test_the_examples_of_the_page_on_security_run(tmp_path):
    run_examples("docs/security.md", tmp_path, at_least=4)


def test_the_examples_of_the_page_on_caching_run(tmp_path):
    run_examples("docs/caching.md", tmp_path, at_least=8)


def test_the_examples_of_the_page_on_servers_run(tmp_path, cluster):
    run_examples("docs/servers.md", tmp_path, at_least=7, servers=cluster)


def test_the_examples_of_the_page_on_importing_run(tmp_path):
    run_examples("docs/importing.md", tmp_path, at_least=4)


def test_ci_runs_the_test_command_of_the_readme():
    command = next(line for line in README.splitlines() if line.endswith("-m pytest") and "venv" in line)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_command_is_documented_and_has_help():
    from objstore.cli.commands import objstore

    for name, command in objstore.commands.items():
        assert f"objstore {name}" in README, name
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help, (name, parameter.name)


def test_the_rooms_in_the_readme_are_those_of_the_source():
    named = re.findall(r"`([a-z]+(?:\.py|/))`", "\n".join(re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)))
    source = ROOT / "objstore"
    rooms = {path.name + "/" * path.is_dir() for path in source.iterdir() if not path.name.startswith("__")}
    assert set(named) == rooms - {"py.typed"}
