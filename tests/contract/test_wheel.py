"""The wheel, built from a copy of the sources and installed where nothing else is: a client without models."""

import email
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without the generated code of the checkout, so that making it is part of the build."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in ("client", "cli", "server", "adapt", "proto"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("*_pb2*", "__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", out, source], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_all_packages_their_types_and_the_generated_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "shortlist",
        "shortlist_cli",
        "shortlist_server",
        "shortlist_adapt",
    }
    assert {
        "shortlist/py.typed",
        "shortlist_server/py.typed",
        "shortlist_adapt/py.typed",
        "shortlist/v1/__init__.py",
    } <= names
    adapt = ROOT / "adapt"
    data = {path for kind in ("*.txt", "*.j2") for path in adapt.rglob(kind)}
    assert len(data) > 5
    assert {path.relative_to(adapt).as_posix() for path in data} <= names
    for proto in (ROOT / "proto" / "shortlist" / "v1").glob("*.proto"):
        assert {f"shortlist/v1/{proto.stem}_pb2{suffix}" for suffix in (".py", ".pyi", "_grpc.py")} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_it_asks_for_grpc_and_protobuf_alone_unless_an_extra_is_named(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    wanted = email.message_from_bytes(archive.read(path)).get_all("Requires-Dist") or []
    plain = {line.split(">")[0].split("<")[0].strip() for line in wanted if "extra ==" not in line}
    assert plain == {"googleapis-common-protos", "grpcio", "grpcio-status", "protobuf"}


def test_an_empty_environment_gets_a_client_without_models(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, capture_output=True)
    program = (
        "import importlib.util, sys\n"
        "from shortlist import Client, Document\n"
        "assert not {'torch', 'numpy', 'click'} & set(sys.modules)\n"
        "assert all(importlib.util.find_spec(name) is None for name in ('torch', 'numpy', 'transformers', 'hnswlib'))\n"
        "with Client('127.0.0.1:1') as client:\n"
        "    print(client.ready(timeout_seconds=1))\n"
    )
    # Outside the checkout, and isolated, so that nothing but what was installed can be imported.
    run = subprocess.run([python, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("False\n", "")
