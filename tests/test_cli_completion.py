"""What a shell completes: by click's own classes, and once by a real bash."""

import shutil
import subprocess
import sys

import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner

from objstore import Store
from objstore.cli.commands import objstore
from objstore.cli.completion import prepare


class Bomb:
    """Cannot be unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemError('unpickled')",)


KEYS = [
    "tagged",
    "user:1",
    "user:22",
    "with space",
    "42",
    "it's",
    "a$b",
    ("user", 1),
    ("user", 2),
    ("zoo", "é"),
    7,
    None,
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("completion") / "a.store")
    with Store(path) as store:
        store.update(dict.fromkeys(KEYS, Bomb()))
        store.set("a$b", Bomb(), tags=["red", "green"])
        store.update({f"many{number:04}": number for number in range(2000)})
        store.namespace("users")["ada"] = Bomb()
        store.namespace("colours")["red"] = Bomb()
    return path


@pytest.fixture
def shell(monkeypatch):
    """Gives what a shell shows for a line."""

    def completed(line, name="bash", variables=()):
        prepare()
        for variable, value in {"COMP_LINE": line, **dict(variables)}.items():
            monkeypatch.setenv(variable, value)
        kind = get_completion_class(name)
        told = kind(objstore, {}, "objstore", "_OBJSTORE_COMPLETE").complete()
        return told.splitlines() if name != "bash" else [row.partition(",")[2] for row in told.splitlines()]

    return completed


class TestBash:
    @pytest.mark.parametrize(
        ("line", "shown"),
        [
            ("objstore sal", ["salvage"]),
            ("objstore ls --re", ["--reverse"]),
            ("objstore get {path} use", ["user:1", "user:22"]),
            ("objstore get {path} user:2", ["22"]),
            ("objstore get {path} user\\:2", ["user:22"]),
            ("objstore get {path} 'user:2", ["user:22"]),
            ("objstore get {path} wi", ['"with space"']),
            ("objstore get {path} a$", ["'a$b'"]),
            ("objstore get {path} it", ['"it\'s"']),
            ("objstore get {path} 7", ["7"]),
            ("objstore get {path} 4", []),  # the key is '42', with quotes: 42 would be another
            ("objstore get {path} \"'4", ["'42'"]),
            ("objstore get {path} \"('us", ["('user', 1)", "('user', 2)"]),
            ("objstore get {path} \"('zoo', ", ["('zoo', 'é')"]),
            ("objstore get {path} No", ["None"]),
            ("objstore get -n users {path} ", ["ada"]),
            ("objstore delete {path} 7 tag", ["tagged"]),
            ("objstore delete -n users {path} red a", ["ada"]),
            ("objstore ls {path} -n ", ["colours", "users"]),
            ("objstore ls {path} --tag g", ["green"]),
            ("objstore ls {path} --start ta", ["tagged"]),
            ("objstore set {path} a 1 --as j", ["json"]),
            ("objstore completion z", ["zsh"]),
        ],
    )
    def test_it_is_shown_what_comes_next(self, shell, path, line, shown):
        assert shell(line.format(path=path)) == shown

    def test_no_more_than_a_hundred_are_shown(self, shell, path):
        assert shell(f"objstore get {path} many") == [f"many{number:04}" for number in range(100)]
        assert shell(f"objstore get {path} many1999") == ["many1999"]  # by a seek: it is not among the first thousand

    def test_where_a_colon_ends_no_word_all_of_it_is_shown(self, shell, path):
        line = f"objstore get {path} user:2"
        assert shell(line, variables={"COMP_WORDBREAKS": " \t\n"}) == ["user:22"]

    @pytest.mark.parametrize("line", ["objstore ls ", "objstore copy a.store b", "objstore bench "])
    def test_stores_are_directories(self, shell, monkeypatch, line):
        monkeypatch.setenv("COMP_LINE", line)
        prepare()
        told = get_completion_class("bash")(objstore, {}, "objstore", "_OBJSTORE_COMPLETE").complete()
        assert [row.partition(",")[0] for row in told.splitlines()] == ["dir"]

    @pytest.mark.parametrize("store", ["nowhere", "redis://127.0.0.1:1/nothing", "memory://x", "''", "{damaged}"])
    def test_what_cannot_be_opened_is_completed_with_nothing(self, shell, tmp_path, capfd, store):
        damaged = tmp_path / "damaged.store"
        Store(damaged).close()
        (damaged / "data.mdb").write_bytes(b"")
        assert shell(f"objstore get {store.format(damaged=damaged)} a") == []
        assert capfd.readouterr() == ("", "")
        assert [each.name for each in tmp_path.iterdir()] == ["damaged.store"]

    def test_a_real_one_completes(self, path, tmp_path):
        command = tmp_path / "objstore"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m objstore "$@"\n')
        command.chmod(0o755)
        program = f"""
            eval "$(objstore completion bash)"
            complete -p objstore
            COMP_LINE='objstore get {path} user:and more' COMP_POINT=$((${{#COMP_LINE}}-8))
            _objstore_completion objstore
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, env=environment)
        assert done.stderr == ""
        assert done.stdout.splitlines() == ["complete -o nosort -F _objstore_completion objstore", "1", "22"]


def test_other_shells_are_told_the_keys_too(shell, path):
    line = {"COMP_WORDS": f"objstore get {path} user", "COMP_CWORD": "3"}
    assert shell("", "zsh", line) == ["plain", "user:1", "_", "plain", "user:22", "_"]
    line["COMP_CWORD"] = "user"
    assert [row for row in shell("", "fish", line) if "user:" in row] != []


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_that_shell(name):
    script = CliRunner().invoke(objstore, ["completion", name]).stdout
    assert f"_OBJSTORE_COMPLETE={name}_complete" in script
    if shutil.which(name):
        subprocess.run([name, "-n", "/dev/stdin"], input=script, text=True, check=True)
