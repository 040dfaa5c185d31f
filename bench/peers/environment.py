"""Makes a virtual environment for each peer in a cache folder, and reuses it while its requirements stay."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

INSTALL_SECONDS = 1200


class NotInstallable(Exception):
    """The packages cannot be installed here; the message is pip's last line."""


def environment_python(name: str, requirements: Sequence[str] | None, cache: Path) -> Path:
    """The interpreter of a peer's environment; this program's own where it has no requirements.

    Raises:
        NotInstallable: pip failed; the unfinished environment is removed.
    """
    if requirements is None:
        return Path(sys.executable)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(" ".join([version, *requirements]).encode()).hexdigest()[:12]
    folder = cache / "environments" / f"{name}-{digest}"
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if ready.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(folder, ignore_errors=True)
        output = error.stderr or error.stdout or ""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        lines = [line for line in text.splitlines() if line.strip()]
        raise NotInstallable(lines[-1] if lines else f"{type(error).__name__}") from error
    ready.touch()
    return python
