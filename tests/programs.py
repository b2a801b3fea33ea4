"""Programs of their own: what could end or hang a process runs in another one, under a time limit."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Warnings are errors there, too.  From 3.12 on, Python warns of forks beside threads; that these go well is tested.
PYTHON = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c"]


def run(program, *arguments, prelude="", seconds=120):
    """Run a program, which must end well and in time; what it prints."""
    command = [*PYTHON, textwrap.dedent(prelude) + textwrap.dedent(program), *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        printed, _ = process.communicate()
        pytest.fail(f"it hangs\n{printed}")
    assert process.returncode == 0, f"exit status {process.returncode}\n{printed}"
    return printed
