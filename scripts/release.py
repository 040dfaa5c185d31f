"""Makes a release: checks version, changelog and contract, builds, tests the wheel in an empty environment, and tags.

    make release            # everything but the tag
    make release ARGS=--tag

Writes the contract's baseline, with which later changes are compared; a new one is to be committed first. Exits 1 with
one line when a check fails. The build is in ``dist/``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import contract

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"

MAX_IMPORT_SECONDS = 0.3
"""Longest median time to import the SDK."""

TRY = """
import subprocess, statistics, sys, time
def once():
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", "import shortlist"], check=True)
    return time.perf_counter() - began
def bare():
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", ""], check=True)
    return time.perf_counter() - began
once()
print(statistics.median(once() - bare() for _ in range(5)))
"""


def main() -> None:
    """Runs all steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--tag", action="store_true", help="set the tag when all checks pass")
    arguments = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    check_sources(version)
    write_baseline(version)
    wheel = build(version)
    seconds = try_wheel(wheel)
    print(f"{wheel.name}: installs and imports in an empty environment, in {seconds:.2f} s")
    if seconds > MAX_IMPORT_SECONDS:
        sys.exit(f"import shortlist takes {seconds:.2f} s; {MAX_IMPORT_SECONDS} s is the limit")
    if arguments.tag:
        run("git", "tag", "--annotate", f"v{version}", "--message", f"Shortlist {version}")
        print(f"tagged v{version}; publish with: git push origin v{version}")


def check_sources(version: str) -> None:
    """Refuses a dirty tree, an already released version, and a changelog without the version."""
    if run("git", "status", "--porcelain"):
        sys.exit("the working tree has changes; commit them first")
    if run("git", "tag", "--list", f"v{version}"):
        sys.exit(f"v{version} is already released; raise the version in pyproject.toml")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d{{2}}-\d{{2}}$", changelog, re.MULTILINE):
        sys.exit(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'")


def write_baseline(version: str) -> None:
    """Makes the contract of this release the baseline. Refuses a contract that breaks with the one before."""
    if broken := contract.breaks():
        sys.exit(f"{broken}this breaks callers of the last release")
    if contract.write():
        sys.exit(f"proto/{contract.BASELINE} is the contract of {version} now; commit it, then repeat")


def build(version: str) -> Path:
    """Builds the source distribution, and the wheel from it; returns the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT))
    return DIST / f"shortlist-{version}-py3-none-any.whl"


def try_wheel(wheel: Path) -> float:
    """Installs the wheel alone and imports the SDK; returns the seconds that the import takes."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        run(python, "-m", "pip", "install", "--quiet", str(wheel))
        return float(run(python, "-I", "-c", TRY, cwd=folder))


def run(*command: str, cwd: str | Path = ROOT) -> str:
    """Runs a command and returns its output; a failure ends the program with the command's error output."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stderr or done.stdout}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
