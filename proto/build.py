"""Build hook: makes the Python code of the protos with ``grpc_tools.protoc``, before anything is packed or linked.

The proto package equals the Python path, so the generated imports are right as they come.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtoBuildHook(BuildHookInterface[Any]):
    """Generates messages, stubs for them, and the services, into ``client/``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before each build of a wheel (editable ones too) or source distribution."""
        if self.target_name == "sdist":
            return
        generate(Path(self.root))


def generate(root: Path) -> None:
    """Writes ``client/shortlist/v1/*`` from ``proto/shortlist/v1/*.proto`` below ``root``."""
    from grpc_tools import protoc

    proto, client = root / "proto", root / "client"
    # Others' protos, under ``google``, are only imported: their packages bring the code.
    files = sorted(str(path.relative_to(proto)) for path in (proto / "shortlist").rglob("*.proto"))
    plugins = Path(sys.executable).parent
    well_known = Path(protoc.__file__).parent / "_proto"
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={proto}",
            f"--proto_path={well_known}",
            f"--python_out={client}",
            f"--grpc_python_out={client}",
            *_stub_plugin("mypy", plugins, client),
            *_stub_plugin("mypy_grpc", plugins, client),
            *files,
        ]
    )
    if code != 0:
        raise RuntimeError(f"protoc ended with {code}")
    for folder in {client / Path(file).parent for file in files}:
        (folder / "__init__.py").write_text('"""Generated from the protos of the same path."""\n')


def _stub_plugin(name: str, plugins: Path, out: Path) -> list[str]:
    program = f"protoc-gen-{name}"
    path = shutil.which(program) or shutil.which(program, path=str(plugins))
    if path is None:
        raise RuntimeError(f"{program} is not installed (mypy-protobuf)")
    return [f"--plugin={program}={path}", f"--{name}_out={out}"]
