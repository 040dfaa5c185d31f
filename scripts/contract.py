"""Compares the contract with its baseline: nothing may break that callers of the last release use.

    python scripts/contract.py            # exits 1, and names what would break
    python scripts/contract.py --write    # makes the present contract the baseline

The baseline, ``proto/baseline.binpb``, is an image of all protos as ``buf build`` makes it, without comments. ``buf``
compares field by field and works without a network. ``proto/buf.yaml`` names its rules, which leave out the protocol of
workers: they are of the server's release.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

BUF = str(Path(sys.executable).parent / "buf")
PROTO = Path(__file__).parents[1] / "proto"
BASELINE = "baseline.binpb"


def breaks(proto: Path = PROTO) -> str:
    """What in a folder of protos breaks with the baseline there, a line each; "" when nothing does."""
    command = [BUF, "breaking", "--against", BASELINE]
    done = subprocess.run(command, cwd=proto, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode and not done.stdout:
        sys.exit(f"buf breaking failed: {done.stderr.strip()}")
    return done.stdout


def write(proto: Path = PROTO) -> bool:
    """Makes the protos in a folder its baseline; whether that changed the file."""
    file = proto / BASELINE
    before = file.read_bytes() if file.exists() else b""
    command = [BUF, "build", "--exclude-source-info", "--output", BASELINE]
    subprocess.run(command, cwd=proto, check=True)  # noqa: S603
    return file.read_bytes() != before


def main() -> None:
    """Compares, or writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="make the present contract the baseline")
    if parser.parse_args().write:
        print(f"{PROTO / BASELINE} is {'new' if write() else 'current'}")
    elif broken := breaks():
        sys.exit(f"{broken}this breaks callers of the baseline; CONTRIBUTING.md says when `make baseline` is allowed")


if __name__ == "__main__":
    main()
