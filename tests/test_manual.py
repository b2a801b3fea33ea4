"""The manual of the command line, `docs/command-line.md` and a chapter of the README.

It names every command, option and exit code, and its examples work.
"""

import os
import re
import secrets
import shlex
import shutil
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


class TestTheManual:
    def test_each_command_is_in_the_readme_and_has_help(self):
        for name, command in COMMANDS.items():
            assert f"objstore {name}" in README, name
            assert command.help, name
            for option in options(command):
                assert option.help, (name, option.name)

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

    def test_the_commands_of_the_readme_work_as_they_are_printed(self, tmp_path, monkeypatch, forked_checks):
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
