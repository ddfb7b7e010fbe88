"""Write docs/cli.md from the help texts of the command line: python scripts/make_cli_docs.py."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


def cli_docs() -> str:
    """Return the reference of all commands in Markdown."""
    typer = [sys.executable, "-X", "utf8", "-m", "typer", "rieszflow.cli", "utils", "docs"]
    command = [*typer, "--name", "rieszflow", "--title", "Command line"]
    text = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)  # a list of help texts that are cut off
    return text.strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(cli_docs(), encoding="utf-8")
