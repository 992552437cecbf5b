"""A virtual environment outside the repository, made when it is first needed.

The scripts here run under any Python 3.10 or later: each names the packages it
needs, and goes on inside an environment that has just these.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path


def enter(cache: Path, name: str, packages: list[str]) -> None:
    """Runs this script again inside `cache/name`, made on the first call; returns once inside.

    `packages` is what `pip install` gets.
    """
    home = (cache / name).resolve()
    python = home / "bin" / "python"
    if Path(sys.prefix).resolve() == home:
        return
    ready = home / "ready"
    want = "\n".join(packages)
    if not ready.exists() or ready.read_text() != want:
        print(f"installing into {home}: {' '.join(packages)}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *packages], check=True)
        ready.write_text(want)
    os.execv(python, [str(python), *sys.argv])


def default_cache() -> Path:
    """Returns where environments and downloads go when no other place is named."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "bramble" / "reference"
