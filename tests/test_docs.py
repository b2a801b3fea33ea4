"""The documents say what is true: their examples run, their commands are the ones that CI runs."""

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from objstore.cli.commands import objstore

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MANUAL = (ROOT / "docs" / "command-line.md").read_text()

_GROUP = click.Context(objstore)
COMMANDS = {name: objstore.get_command(_GROUP, name) for name in objstore.list_commands(_GROUP)}


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


def test_ci_runs_the_test_command_of_the_readme():
    command = next(line for line in README.splitlines() if line.endswith("-m pytest") and "venv" in line)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_command_is_documented_and_has_help():
    for name, command in COMMANDS.items():
        assert f"objstore {name}" in README, name
        assert command.help, name
        for option in options(command):
            assert option.help, (name, option.name)


class TestTheManual:
    """`docs/command-line.md`, and the chapter of the README."""

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_command_has_a_section_that_names_its_options(self, name):
        section = re.search(rf"^## `objstore {name}`$(.*?)(?=^## |\Z)", MANUAL, re.DOTALL | re.MULTILINE)[1]
        assert section.strip()
        for option in options(COMMANDS[name]):
            assert f"`{max(option.opts, key=len)}" in section, option.name

    def test_each_section_is_of_a_command_that_is_there(self):
        # Headings for commands that are not built yet stand empty.
        sections = re.findall(r"^## `objstore ([a-z]+)`$(.*?)(?=^## |\Z)", MANUAL, re.DOTALL | re.MULTILINE)
        assert {name for name, text in sections if text.strip()} <= set(COMMANDS)

    @pytest.mark.parametrize("page", [README, MANUAL], ids=["README", "manual"])
    def test_each_example_makes_sense(self, page, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        examples = commands_of(page)
        assert len(examples) > 10
        for name, *arguments in examples:
            COMMANDS[name].make_context(name, arguments)  # says what is wrong with them

    def test_the_commands_of_the_readme_work_as_they_are_printed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OBJSTORE_SIGNING_KEY", secrets.token_hex(32))  # so that there is something to rekey
        for name, *arguments in commands_of(README[README.index("## Command line") :]):
            if any(each.startswith("redis://") for each in arguments):
                continue
            if name == "salvage":
                shutil.copytree("copy.store", "damaged.store")
            if name == "bench":
                arguments += ["--seconds", "0.1"]
            result = CliRunner().invoke(objstore, [name, *arguments])
            assert result.exit_code == 0, (name, result.output)
        assert {"results.store", "copy.store", "new.store"} <= set(os.listdir())

    def test_the_exit_codes_are_said_everywhere(self):
        chapter = README[README.index("## Command line") :]
        table = MANUAL[MANUAL.index("## Exit codes") :]
        for code in ("0", "1", "2", "130", "143", "129", "141"):
            for text in (objstore.epilog, chapter, table):
                assert re.search(rf"\b{code}\b", text), (code, text)


def options(command):
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def commands_of(page):
    """The command lines of `objstore` in the shell examples of a page, also those of pipes, as lists of words."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
            for piece in pieces(words):
                if piece[0] == "objstore":
                    found.append(piece[1:])
    return found


def pieces(words):
    """The commands of a pipe."""
    while "|" in words:
        end = words.index("|")
        yield words[:end]
        words = words[end + 1 :]
    yield words or [""]


def test_the_rooms_in_the_readme_are_those_of_the_source():
    named = re.findall(r"`([a-z]+(?:\.py|/))`", "\n".join(re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)))
    source = ROOT / "objstore"
    rooms = {path.name + "/" * path.is_dir() for path in source.iterdir() if not path.name.startswith("__")}
    assert set(named) == rooms - {"py.typed"}
