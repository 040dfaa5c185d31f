"""The server's one configuration.

``Config`` is a frozen value; every field carries its help text, so that flags, environment variables, the TOML file and
the documentation are the same list. Nothing here reads the environment: the command line does, once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
"""The embedded default, whose weights come from the package index."""

DEFAULT_PORT = 50051
"""Port of the server unless told otherwise; gRPC's customary one."""


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of a server; see each field's ``metadata["help"]``."""

    data_dir: Path = _setting(Path("shortlist-data"), "Folder of the collections; made when missing.")
    backup_dir: str = _setting("", "Folder of backups; empty: the folder 'backups' in the data folder.")
    listen: str = _setting(f"127.0.0.1:{DEFAULT_PORT}", "Address to listen on, HOST:PORT; port 0 takes a free one.")
    embedders: tuple[str, ...] = _setting(
        (DEFAULT_EMBEDDER,),
        "Embedder to load: all-MiniLM-L6-v2, hashing, or NAME=FOLDER-OR-HUB-NAME; repeatable, the first is default.",
    )
    rerankers: tuple[str, ...] = _setting(
        (), "Reranker to load beside late-interaction: NAME=FOLDER-OR-HUB-NAME; repeatable. The first is the default."
    )
    workers: tuple[str, ...] = _setting(
        (),
        "Address of a 'shortlist worker', HOST:PORT; repeatable. The models are then the workers', and none is loaded"
        " here.",
    )
    device: str = _setting("auto", "Where torch models run: auto, cpu or cuda.")
    backend: str = _setting("auto", "What runs encoders: auto (onnx on a CPU, torch on a GPU), onnx or torch.")
    dtype: str = _setting(
        "auto",
        "Number format of models: auto (int8 for encoders on a CPU, bfloat16 on a GPU, else float32), int8, float32 or"
        " bfloat16.",
    )
    inference_threads: int = _setting(0, "Threads of one model run; 0: the machine's cores, at most 8.")
    max_concurrent_rpcs: int = _setting(256, "Calls served at once; more are refused with RESOURCE_EXHAUSTED.")
    max_message_bytes: int = _setting(32 * 1024 * 1024, "Largest message sent or received, in bytes.")
    max_document_bytes: int = _setting(1024 * 1024, "Largest title and text of a document, in bytes of UTF-8.")
    max_metadata_bytes: int = _setting(64 * 1024, "Largest metadata of a document, in bytes of JSON.")
    max_query_bytes: int = _setting(32 * 1024, "Largest query text, in bytes of UTF-8.")
    max_deadline_seconds: float = _setting(60.0, "Longest time for one unary call, whatever deadline its caller sets.")
    ingest_window_tokens: int = _setting(65536, "Tokens of one ingest stream that are read but not yet acknowledged.")
    segment_min_passages: int = _setting(4096, "Passages in the exact tail that make the server seal a segment.")
    segment_max_passages: int = _setting(200_000, "Largest segment, in passages; merges stop there.")
    drain_seconds: float = _setting(20.0, "Time for running calls to finish after SIGTERM.")
    reflection: bool = _setting(True, "Serve gRPC reflection.")
    log_level: str = _setting("info", "Lowest level logged: debug, info, warning or error.")

    def replace(self, **changes: Any) -> Config:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)
