"""The server's one configuration.

``Config`` is a frozen value; every field carries its help text, so that flags, environment variables, the TOML file and
the documentation are the same list. Nothing here reads the environment: the command line does, once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shortlist_server.errors import InvalidArgument

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
"""The embedded default, whose weights come from the package index."""

DEFAULT_PORT = 50051
"""Port of the server unless told otherwise; gRPC's customary one."""


MOST_BYTES = 2**31 - 1
"""Largest size that gRPC takes as an option."""


def _setting(default: Any, help: str, *, least: float = 0, most: float = math.inf) -> Any:
    return field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of a server; see each field's ``metadata["help"]``.

    Raises:
        InvalidArgument: a number is out of its range, or an address is not HOST:PORT.
    """

    data_dir: Path = _setting(Path("shortlist-data"), "Folder of the collections; made when missing.")
    backup_dir: str = _setting("", "Folder of backups; empty: the folder 'backups' in the data folder.")
    listen: str = _setting(f"127.0.0.1:{DEFAULT_PORT}", "Address to listen on, HOST:PORT; port 0 takes a free one.")
    tls_certificate: str = _setting("", "PEM file of the server's certificate chain; with it, only TLS is spoken.")
    tls_key: str = _setting("", "PEM file of the certificate's private key.")
    tls_client_ca: str = _setting("", "PEM file of authorities; every client must show a certificate of theirs (mTLS).")
    api_keys: tuple[str, ...] = _setting(
        (),
        "API key to accept, as 'shortlist key' prints it: NAME:SCOPES:SHA256[:COLLECTIONS]; repeatable. With a key,"
        " every call needs one.",
    )
    api_keys_file: str = _setting("", "File of API keys to accept, one on a line; read again when it changes.")
    insecure: bool = _setting(False, "Allow an address that others can reach without any API key.")
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
    worker_tls_ca: str = _setting(
        "", "PEM file of authorities; workers are called over TLS and must show a certificate of theirs."
    )
    worker_tls_certificate: str = _setting("", "PEM file of the certificate to show to workers that demand one.")
    worker_tls_key: str = _setting("", "PEM file of that certificate's private key.")
    worker_api_key_file: str = _setting("", "File that holds the API key to send to workers, of scope read.")
    device: str = _setting("auto", "Where torch models run: auto, cpu or cuda.")
    backend: str = _setting(
        "auto", "What runs encoders: auto (onnx on a CPU, torch on a GPU), onnx (on a CPU) or torch."
    )
    dtype: str = _setting(
        "auto",
        "Number format of models: auto (int8 for encoders on a CPU, bfloat16 on a GPU that has it, else float32), int8,"
        " float32 or bfloat16.",
    )
    inference_threads: int = _setting(0, "Threads of one model run; 0: the machine's cores, at most 8.")
    max_concurrent_rpcs: int = _setting(
        256, "Calls served at once, ingest streams apart; more are refused with RESOURCE_EXHAUSTED.", least=1
    )
    max_concurrent_searches: int = _setting(
        0, "Search and BatchSearch calls worked on at once; others wait. 0: four for each core, at least eight."
    )
    max_search_wait_seconds: float = _setting(
        0.5, "Longest time a search waits for its turn; one that would have to wait longer is refused at once."
    )
    max_concurrent_rpcs_per_caller: int = _setting(
        0, "Calls served at once for one caller: an API key or, without keys, a client's address. 0: no limit."
    )
    max_requests_per_second: float = _setting(0.0, "Calls of one caller in a second, on average; 0: no limit.")
    max_sequence_waits: int = _setting(
        64, "Searches that wait for their 'min_sequence' at once; a quarter of them for one caller.", least=1
    )
    max_unsent_bytes: int = _setting(
        32 * 1024 * 1024,
        "Bytes of large answers that clients have not taken yet; half of them for one caller. One answer always fits.",
        least=1,
    )
    max_answer_seconds: float = _setting(
        60.0, "Time for a client to take the answer of a unary call; then the call is cancelled.", least=0.01
    )
    max_connections: int = _setting(4096, "Connections open at once; more are closed at once.", least=1)
    max_health_watches: int = _setting(
        256, "Watches of the health service open at once; an eighth of them for one address.", least=1
    )
    max_ingest_streams: int = _setting(64, "Ingest streams open at once.")
    max_ingest_streams_per_caller: int = _setting(32, "Ingest streams open at once for one caller.")
    stream_start_seconds: float = _setting(10.0, "Time for the first message of an ingest stream to arrive.")
    stream_idle_seconds: float = _setting(
        600.0,
        "A stream on which nothing moves, or whose client takes no message, for so long is ended with UNAVAILABLE;"
        " clients resume an ingest.",
    )
    max_header_bytes: int = _setting(16 * 1024, "Largest headers of a call, in bytes.", most=MOST_BYTES)
    max_message_bytes: int = _setting(32 * 1024 * 1024, "Largest message sent or received, in bytes.", most=MOST_BYTES)
    max_document_bytes: int = _setting(1024 * 1024, "Largest title and text of a document, in bytes of UTF-8.")
    max_document_tokens: int = _setting(
        262_144, "Most tokens embedded for one document, overlaps included; one with more is refused."
    )
    max_metadata_bytes: int = _setting(64 * 1024, "Largest metadata of a document, in bytes of JSON.")
    max_query_bytes: int = _setting(32 * 1024, "Largest query text, in bytes of UTF-8.")
    max_hits: int = _setting(1000, "Largest limit + offset of a search.")
    max_candidates: int = _setting(1000, "Largest number of candidates a search may ask of one index.")
    max_rerank_depth: int = _setting(1000, "Largest number of documents a search may have reranked.")
    max_filter_depth: int = _setting(16, "Levels of a filter.")
    max_filter_nodes: int = _setting(256, "Conditions of a filter, in all.")
    max_filter_values: int = _setting(1000, "Values of one 'one of' condition of a filter.")
    max_deadline_seconds: float = _setting(60.0, "Longest time for one unary call, whatever deadline its caller sets.")
    ingest_window_tokens: int = _setting(65536, "Tokens of one ingest stream that are read but not yet acknowledged.")
    segment_min_passages: int = _setting(
        4096, "Passages in the exact tail that make the server seal a segment.", least=1
    )
    segment_max_passages: int = _setting(200_000, "Largest segment, in passages; merges stop there.", least=1)
    max_open_collections: int = _setting(
        48,
        "Collections that stay open while nobody uses them; more are opened at their first use, in the place of others."
        " Fewer where the limit of open files allows no more.",
        least=1,
    )
    collection_idle_seconds: float = _setting(
        600.0,
        "A collection that was not used for so long is closed, later where opening it took long; 0: only when its place"
        " is needed.",
    )
    drain_seconds: float = _setting(20.0, "Time for running calls to finish after SIGTERM.")
    drain_delay_seconds: float = _setting(
        0.0, "Time after SIGTERM in which health already answers NOT_SERVING and calls are still taken."
    )
    reflection: bool = _setting(True, "Serve gRPC reflection, v1 and v1alpha.")
    min_free_disk_bytes: int = _setting(
        256 * 1024 * 1024, "With less space than this left for the data, health of writing is NOT_SERVING."
    )
    health_interval_seconds: float = _setting(10.0, "Time between checks of models, store and disk space.", least=0.01)
    recall_check_interval_seconds: float = _setting(
        10.0, "Time between two checks of a search against an exact one, which estimate recall and raise ef; 0: none."
    )
    metrics_listen: str = _setting("", "Address for Prometheus metrics, HOST:PORT; empty: none are served.")
    metrics_insecure: bool = _setting(
        False,
        "Allow a metrics address that others can reach: whoever does reads names and sizes of all collections, without"
        " a key.",
    )
    tracing: bool = _setting(
        False, "Send OpenTelemetry traces as the OTEL_* environment variables say; needs the extra 'tracing'."
    )
    slow_search_seconds: float = _setting(1.0, "Searches that take longer are logged with their stages; 0: none.")
    log_format: str = _setting("human", "Form of log lines: human or json.")
    log_level: str = _setting("info", "Lowest level logged: debug, info, warning or error.")

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value, least, most = getattr(self, setting.name), setting.metadata["least"], setting.metadata["most"]
            # So written that NaN is refused.
            if isinstance(value, int | float) and not least <= value <= most:
                allowed = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
                raise InvalidArgument(f"{setting.name} is {value}, but must be {allowed}", field=setting.name)
        for name in ("listen", "metrics_listen"):
            address = getattr(self, name)
            if not is_address(address) and (address or name == "listen"):
                raise InvalidArgument(
                    f"{name} is {address!r}, but must be HOST:PORT with a port of at most 65535", field=name
                )

    def replace(self, **changes: Any) -> Config:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def is_address(text: str) -> bool:
    """Whether a text can be listened on: HOST:PORT with a port of 0 to 65535, or a Unix socket's."""
    _, colon, port = text.rpartition(":")
    if text.startswith(("unix:", "unix-abstract:")):
        return True
    return bool(colon) and port.isascii() and port.isdigit() and int(port) < 65536
