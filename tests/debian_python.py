"""A newer Python beside the machine's: Debian's packages of it, unpacked into a directory that nothing else looks at.

`python3 -m tests.debian_python DIRECTORY` makes `DIRECTORY/usr/bin/python3.13`. vibe needs one, and Debian 12 has
Python 3.11; that its own next release has a newer one is what apt says, after it has checked Debian's signature.
Nothing of the system is changed, and nobody has to be root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES = f"deb [signed-by={KEYRING}] http://deb.debian.org/debian trixie main\n"
PACKAGE, PROGRAM = "python3.13-venv", Path("usr/bin/python3.13")
SETTINGS = """\
Dir::Etc::sourcelist "{0}/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "{0}/state";
Dir::State::status "/dev/null";
Dir::Cache "{0}/cache";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "5";
"""
START = """\
#!/bin/sh
exec '{0}' --argv0 "$0" --library-path '{1}' '{2}' "$@"
"""
"""It has libraries of its own, the C library too."""


def is_possible() -> bool:
    return KEYRING.exists() and all(map(shutil.which, ("apt-get", "dpkg-deb")))


def main(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    apt = root / "apt"
    for archive in downloaded(apt):
        subprocess.run(("dpkg-deb", "--extract", archive, root), check=True)
    shutil.rmtree(apt)
    relocate(root)


def downloaded(apt: Path) -> list[Path]:
    """The package, and all that it needs: for a system on which nothing is installed."""
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (apt / directory).mkdir(parents=True)
    (apt / "sources.list").write_text(SOURCES)
    (apt / "apt.conf").write_text(SETTINGS.format(apt))
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}  # noqa: TID251
    wanted = ("install", "--yes", "--download-only", "--no-install-recommends", PACKAGE)
    for words in (("update",), wanted):
        subprocess.run(("apt-get", "-qq", *words), env=environment, check=True)
    return sorted((apt / "cache" / "archives").glob("*.deb"))


def relocate(root: Path) -> None:
    """Let it run from here: with its own libraries, and pip for its environments from its own files."""
    settings = next(root.glob("usr/lib/python3.13/_sysconfigdata_*.py"))  # further ones are links to it
    settings.write_text(
        settings.read_text().replace("/usr/share/python-wheels", f"{root}/usr/share/python-wheels")
    )
    (library,) = root.glob("usr/lib/*-linux-gnu*/libc.so.6")
    (loader,) = library.parent.glob("ld-linux*.so.*")
    program = root / PROGRAM
    behind = program.rename(f"{program}.elf")
    program.write_text(START.format(loader, library.parent, behind))
    program.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
