"""The server's one configuration.

``Config`` is a frozen value. Every field carries its help text, and flags, environment variables, the TOML file and the
documentation are made from this one list. Nothing here reads the environment: the command line does, once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shortlist_server.errors import InvalidArgument

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
"""The default embedder, whose weights come from the package index."""

DEFAULT_PORT = 50051
"""Default port of the server: the customary one of gRPC."""

MOST_BYTES = 2**31 - 1
"""Largest size that gRPC accepts as an option."""


def _setting(default: Any, help: str, *, least: float = 0, most: float = math.inf) -> Any:
    return field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of a server; see each field's ``metadata["help"]``.

    Raises:
        InvalidArgument: a number is out of its range, or an address is not HOST:PORT.
    """

    data_dir: Path = _setting(Path("shortlist-data"), "Folder of the collections; created when missing.")
    backup_dir: str = _setting("", "Folder of backups. Empty: 'backups' in the data folder.")
    listen: str = _setting(f"127.0.0.1:{DEFAULT_PORT}", "Address to listen on, HOST:PORT; port 0 picks a free one.")
    tls_certificate: str = _setting(
        "", "PEM file of the server's certificate chain. With it, the server speaks only TLS."
    )
    tls_key: str = _setting("", "PEM file of the certificate's private key.")
    tls_client_ca: str = _setting(
        "", "PEM file of certificate authorities. Every client must then show a certificate from one of them (mTLS)."
    )
    api_keys: tuple[str, ...] = _setting(
        (),
        "API key to accept, as 'shortlist key' prints it: NAME:SCOPES:SHA256[:COLLECTIONS]; repeatable. With any"
        " key set, every call needs one.",
    )
    api_keys_file: str = _setting("", "File of API keys to accept, one per line; read again when it changes.")
    insecure: bool = _setting(False, "Allow listening beyond loopback without API keys.")
    embedders: tuple[str, ...] = _setting(
        (DEFAULT_EMBEDDER,),
        "Embedder to load: all-MiniLM-L6-v2, hashing, or NAME=FOLDER-OR-HUB-NAME; repeatable. The first is the"
        " default. Of several with one name the first makes new collections and generations; the others serve those"
        " made with them.",
    )
    rerankers: tuple[str, ...] = _setting(
        (), "Reranker to load beside late-interaction: NAME=FOLDER-OR-HUB-NAME; repeatable. The first is the default."
    )
    workers: tuple[str, ...] = _setting(
        (),
        "Address of a 'shortlist worker', HOST:PORT; repeatable. The workers then run the models, and this"
        " server loads none.",
    )
    worker_tls_ca: str = _setting(
        "",
        "PEM file of certificate authorities. The server then calls workers over TLS, and they must show a certificate"
        " from one of them.",
    )
    worker_tls_certificate: str = _setting("", "PEM file of the certificate to show to workers that require one.")
    worker_tls_key: str = _setting("", "PEM file of that certificate's private key.")
    worker_api_key_file: str = _setting("", "File with the API key to send to workers; the key needs scope read.")
    device: str = _setting("auto", "Where torch models run: auto, cpu or cuda.")
    backend: str = _setting(
        "auto", "What runs encoders: auto (onnx on a CPU, torch on a GPU), onnx (CPU only) or torch."
    )
    dtype: str = _setting(
        "auto",
        "Number format of models: auto (int8 for encoders on a CPU, bfloat16 on a GPU that supports it, else float32),"
        " int8, float32 or bfloat16.",
    )
    inference_threads: int = _setting(0, "Threads of one model run. 0: one for each core, at most 8.")
    max_concurrent_rpcs: int = _setting(
        256,
        "Calls served at once, ingest streams not counted; further calls are refused with RESOURCE_EXHAUSTED.",
        least=1,
    )
    max_concurrent_searches: int = _setting(
        0, "Search and BatchSearch calls worked on at once; others wait. 0: four for each core, at least eight."
    )
    max_search_wait_seconds: float = _setting(
        0.5, "Longest time a search waits for its turn. One that would wait longer is refused at once."
    )
    max_concurrent_rpcs_per_caller: int = _setting(
        0, "Calls served at once for one caller: an API key or, without keys, a client's address. 0: no limit."
    )
    max_requests_per_second: float = _setting(0.0, "Calls of one caller per second, on average. 0: no limit.")
    max_sequence_waits: int = _setting(
        64, "Searches that may wait for their 'min_sequence' at once; one caller may have a quarter of them.", least=1
    )
    max_unsent_bytes: int = _setting(
        32 * 1024 * 1024,
        "Bytes of large answers that clients have not received yet; one caller may have half of them. One answer always"
        " fits.",
        least=1,
    )
    max_answer_seconds: float = _setting(
        60.0, "Time for a client to receive the answer of a unary call, before the call is cancelled.", least=0.01
    )
    max_connections: int = _setting(4096, "Connections open at once; further ones are closed immediately.", least=1)
    max_health_watches: int = _setting(
        256, "Watches of the health service open at once; one address may have an eighth of them.", least=1
    )
    max_operations: int = _setting(
        32,
        "Operations that run or wait at once, and as many reindexes; one caller may have half of them.",
        least=1,
    )
    max_model_bytes: int = _setting(
        8 * 1024**3, "Most bytes of published models, unfinished uploads included. 0: none can be published."
    )
    max_ingest_streams: int = _setting(64, "Ingest streams open at once.")
    max_ingest_streams_per_caller: int = _setting(32, "Ingest streams open at once for one caller.")
    stream_start_seconds: float = _setting(10.0, "Time for the first message of an ingest stream to arrive.")
    stream_idle_seconds: float = _setting(
        600.0,
        "Time after which the server ends an idle stream, or one whose client receives nothing, with UNAVAILABLE;"
        " clients resume an ingest.",
    )
    max_header_bytes: int = _setting(16 * 1024, "Largest headers of a call, in bytes.", most=MOST_BYTES)
    max_message_bytes: int = _setting(32 * 1024 * 1024, "Largest message sent or received, in bytes.", most=MOST_BYTES)
    max_document_bytes: int = _setting(1024 * 1024, "Largest title and text of a document, in bytes of UTF-8.")
    max_document_tokens: int = _setting(
        262_144, "Most tokens embedded for one document, overlaps included; a document with more is refused."
    )
    max_metadata_bytes: int = _setting(64 * 1024, "Largest metadata of a document, in bytes of JSON.")
    max_query_bytes: int = _setting(32 * 1024, "Largest query text, in bytes of UTF-8.")
    max_hits: int = _setting(1000, "Largest limit + offset of a search.")
    max_candidates: int = _setting(1000, "Most candidates that a search may ask of one index.")
    max_rerank_depth: int = _setting(1000, "Most documents that a search may rerank.")
    max_filter_depth: int = _setting(16, "Most levels of a filter.")
    max_filter_nodes: int = _setting(256, "Most conditions in a filter.")
    max_filter_values: int = _setting(1000, "Most values in one 'one of' condition of a filter.")
    max_deadline_seconds: float = _setting(60.0, "Longest time for one unary call, whatever deadline its caller sets.")
    ingest_window_tokens: int = _setting(
        65536, "Most tokens of one ingest stream that are read but not yet acknowledged."
    )
    segment_min_passages: int = _setting(
        4096, "Passages in the growing segment that make the server flush it to a segment.", least=1
    )
    segment_max_passages: int = _setting(200_000, "Largest segment, in passages; merges stop there.", least=1)
    max_open_collections: int = _setting(
        48,
        "Most collections that stay open while nobody uses them; opening another one closes one of them. Fewer where"
        " the limit of open files is too low.",
        least=1,
    )
    collection_idle_seconds: float = _setting(
        600.0,
        "Time after which an unused collection is closed; longer where opening it took long. 0: only when its place is"
        " needed.",
    )
    drain_seconds: float = _setting(20.0, "Time for running calls to finish after SIGTERM.")
    drain_delay_seconds: float = _setting(
        0.0, "Time after SIGTERM during which health answers NOT_SERVING while the server still takes calls."
    )
    reflection: bool = _setting(True, "Serve gRPC reflection, v1 and v1alpha.")
    min_free_disk_bytes: int = _setting(
        256 * 1024 * 1024,
        "Free disk space, in bytes, below which the health of writing is NOT_SERVING and reindexes pause.",
    )
    health_interval_seconds: float = _setting(10.0, "Time between checks of models, store and disk space.", least=0.01)
    recall_check_interval_seconds: float = _setting(
        10.0,
        "Time between recall checks, which compare a search with an exact one and raise ef where needed. 0: no checks.",
    )
    sampled_queries: int = _setting(
        0,
        "Recent queries to keep of each collection, in memory and for an hour, so that 'shortlist reindex compare' can"
        " run without judged queries. 0: none.",
        most=10_000,
    )
    metrics_listen: str = _setting("", "Address for Prometheus metrics, HOST:PORT. Empty: no metrics.")
    metrics_insecure: bool = _setting(
        False,
        "Allow a metrics address beyond loopback: whoever reaches it can read the names and sizes of all collections,"
        " without a key.",
    )
    tracing: bool = _setting(
        False, "Send OpenTelemetry traces as the OTEL_* environment variables say; needs the extra 'tracing'."
    )
    slow_search_seconds: float = _setting(1.0, "Searches that take longer are logged with their stages. 0: none.")
    log_format: str = _setting("human", "Format of log lines: human or json.")
    log_level: str = _setting("info", "Lowest level to log: debug, info, warning or error.")

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value, least, most = getattr(self, setting.name), setting.metadata["least"], setting.metadata["most"]
            # Written this way round, the comparison also refuses NaN.
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
    """Whether a text is an address to listen on: HOST:PORT with a port of 0 to 65535, or a Unix socket's."""
    _, colon, port = text.rpartition(":")
    if text.startswith(("unix:", "unix-abstract:")):
        return True
    return bool(colon) and port.isascii() and port.isdigit() and int(port) < 65536
