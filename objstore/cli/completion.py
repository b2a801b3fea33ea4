"""`objstore completion`: the script that lets a shell complete commands, options, stores, keys, namespaces and tags.

The scripts are click's, but for that of bash, and a word in that of fish.  Bash ends a word at a colon, and keys like
`user:1` have one: so its script hands over the whole line, which is read here as a shell reads it, and is given only
what follows the last colon.  And bash quotes nothing: what it would take apart is quoted here.  What is completed is
found in `completing`.
"""

from __future__ import annotations

import os
import shlex

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    add_completion_class,
    get_completion_class,
)

from objstore.cli import COMPLETE_VARIABLE

_SHELLS = ("bash", "zsh", "fish")

_SCRIPT = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, stores, keys, namespaces and tags in SHELL.

    \b
    bash:  eval "$(objstore completion bash)"      in ~/.bashrc
    zsh:   eval "$(objstore completion zsh)"       in ~/.zshrc, after compinit
    fish:  objstore completion fish | source       in ~/.config/fish/config.fish
    """
    prepare()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "objstore", COMPLETE_VARIABLE).source())


def prepare() -> None:
    """Let click know of this bash, and of this fish."""
    add_completion_class(_Bash)
    add_completion_class(_Fish)


class _Bash(BashComplete):
    """What bash shows is what follows the last colon or equals sign that is typed already, quoted where it must be."""

    source_template = _SCRIPT
    _shown = ""  # what is typed of the word and stays as it is
    _quote = ""  # the quote that is open in the word, or a backslash at its end

    def get_completion_args(self) -> tuple[list[str], str]:
        words, self._quote = _words(os.environ["COMP_LINE"])
        breaks = [each for each in ":=" if each in os.environ.get("COMP_WORDBREAKS", ":=")]
        if not (self._quote or "\\" in os.environ["COMP_LINE"].rpartition(" ")[2]):  # escaped, it ends no word
            self._shown = words[-1][: 1 + max(map(words[-1].rfind, breaks), default=-1)]
        return words[1:-1], words[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        found = super().get_completions(args, incomplete)
        return [item for item in found if _stays(item.value, self._quote)]

    def format_completion(self, item: CompletionItem) -> str:
        value = item.value.removeprefix(self._shown)
        return f"{item.type},{value if self._quote else _quoted(value)}"


class _Fish(FishComplete):
    """What is completed may have commas, at the first of which click's script would cut it: another key."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


def _stays(value: str, quote: str) -> bool:
    """Whether a value within a quote is what the shell makes of it: no end of the quote, and nothing that it runs."""
    if quote == "\\":  # what it would take the mark from depends on what is before
        return False
    return not (quote and set(value) & set("'" if quote == "'" else '"$`!\\'))


def _words(line: str) -> tuple[list[str], str]:
    """The words of a line that is not finished, the last of them maybe empty, and the quote that is open in that."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:  # it ends within a quote, or after a backslash
        return [*words, lexer.token], lexer.state or ""  # type: ignore[attr-defined]  # that is where it was
    return ([*words, ""] if line[-1:].isspace() else words), ""


def _quoted(value: str) -> str:
    """The value as one word of a shell, easily read where that can be."""
    quoted = shlex.quote(value)
    return quoted if quoted == value or set(value) & set('"$`!\\') else f'"{value}"'
