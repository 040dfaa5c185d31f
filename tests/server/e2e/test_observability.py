"""What an operator sees: the page of metrics, traces, logs, and health that follows the parts."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import StatusCode
from prometheus_client.parser import text_string_to_metric_families

from shortlist import Client, CollectionConfig, Document, InvalidArgument
from shortlist.v1 import (
    collection_service_pb2,
    collection_service_pb2_grpc,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)
from shortlist.v1 import document_service_pb2 as documents_pb
from shortlist.v1 import document_service_pb2_grpc as documents_grpc
from shortlist_server.app import Server
from shortlist_server.config import Config
from shortlist_server.domain import Deadline
from shortlist_server.inference.lane import Lane, LaneLimits
from shortlist_server.observe.logs import HumanFormatter, JsonFormatter, request_id
from shortlist_server.observe.observer import Observer
from shortlist_server.remote.catalog import find_models
from shortlist_server.testing import TestServer, server
from shortlist_server.worker import Worker

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana-dashboard.json"
SERVICES = ["", *(f"shortlist.v1.{name}Service" for name in ("Search", "Document", "Collection", "Admin"))]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of metrics of a server that has done a little of everything."""
    running = TestServer(
        tmp_path_factory.mktemp("data"),
        metrics_listen="127.0.0.1:0",
        max_requests_per_second=50.0,
        health_interval_seconds=600.0,
    )
    running.start()
    try:
        with Client(running.target) as client:
            client.create_collection("docs", CollectionConfig(filterable_fields=("n",)))
            client.ingest(
                "docs", [Document(id=f"d{i}", text=f"owl {i}", metadata={"n": i}) for i in range(30)]
            ).finish()
            client.search("docs", "owl")
            client.search("docs", "owl")
            with pytest.raises(InvalidArgument):
                client.search("docs", "owl", limit=-1)
        return read_page(running._server.metrics_port)
    finally:
        running.stop()


def read_page(port: int | None) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return str(answer.read().decode())


def values(page: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a name: the values of their labels, in the order of the labels' names, and the number."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def test_the_page_counts_what_was_done(page: str) -> None:
    search = "/shortlist.v1.SearchService/Search"
    assert values(page, "shortlist_rpc_seconds_count")["OK", search] == 2
    assert values(page, "shortlist_rpc_seconds_count")["INVALID_ARGUMENT", search] == 1
    stages = values(page, "shortlist_search_stage_seconds_count")
    assert {stage for (stage,), count in stages.items() if count} >= {"embed", "lexical", "dense", "fuse", "group"}
    assert values(page, "shortlist_collection_documents")[("docs",)] == 30
    assert values(page, "shortlist_collection_growing_passages")[("docs",)] == 30
    assert values(page, "shortlist_ingest_operations_total")[("durable",)] == 30
    assert values(page, "shortlist_query_tokens_total")[()] > 0
    assert values(page, "shortlist_disk_free_bytes")[()] > 0
    assert values(page, "process_resident_memory_bytes")[()] > 0


LANES = {("passage", "hashing"), ("query", "hashing"), ("rerank", "late-interaction")}


def test_every_lane_tells_of_its_queue_its_waits_and_its_batches(page: str) -> None:
    waits = values(page, "shortlist_lane_wait_seconds_count")
    assert set(waits) == LANES
    # The two searches ask the same, so the query is embedded once; one more is health's probe.
    assert waits == {("passage", "hashing"): 30, ("query", "hashing"): 2, ("rerank", "late-interaction"): 2}
    assert values(page, "shortlist_lane_batch_items_sum") == waits
    batches = values(page, "shortlist_lane_batch_seconds_count")
    assert set(batches) == LANES
    assert 1 <= batches["passage", "hashing"] <= 30
    tokens = values(page, "shortlist_lane_batch_tokens_sum")
    assert tokens["passage", "hashing"] == values(page, "shortlist_ingest_tokens_total")[()] == 60
    assert tokens["rerank", "late-interaction"] == 0
    assert values(page, "shortlist_lane_queued_items") == dict.fromkeys(LANES, 0)
    assert values(page, "shortlist_lane_queued_cost") == dict.fromkeys(LANES, 0)
    assert values(page, "shortlist_query_cache_hits_total") == {("hashing",): 1}
    assert values(page, "shortlist_query_cache_misses_total") == {("hashing",): 2}


def test_with_neither_metrics_nor_traces_a_lane_reports_to_nobody() -> None:
    assert Observer().lane("model", "query") is None


async def test_a_worker_serves_the_metrics_of_its_lanes(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", embedders=("hashing",), metrics_listen="127.0.0.1:0")
    worker = Worker(config)
    port = await worker.start()
    models = await asyncio.to_thread(find_models, Config(workers=(f"127.0.0.1:{port}",)))
    try:
        embedder = models.embedder("hashing")
        await embedder.embed_query("an owl", instruction="", dimension=256, deadline=Deadline.after(10))
        page = await asyncio.to_thread(read_page, worker.metrics_port)
    finally:
        models.close()
        await worker.stop(1)
    assert values(page, "shortlist_lane_batch_tokens_sum")["query", "hashing"] == 2
    assert values(page, "shortlist_rpc_seconds_count")["OK", "/shortlist.worker.v1.WorkerService/EmbedQueries"] == 1


def test_every_metric_has_help_a_unit_and_a_name_as_prometheus_wants_it(page: str) -> None:
    """The rules of ``promtool check metrics``."""
    families = [f for f in text_string_to_metric_families(page) if f.name.startswith("shortlist_")]
    assert len(families) > 15
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", family.name), family.name
        assert not re.search(r"_(ms|milliseconds|kb|mb|minutes|percent)(_|$)", family.name), "base units only"
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert not (family.type in ("gauge", "histogram") and family.name.endswith(("_total", "_count", "_sum")))
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_items", "_tokens")), "the unit is the end of the name"
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z_]+", label) for label in sample.labels)


def test_the_dashboard_asks_for_metrics_that_are_on_the_page(page: str) -> None:
    names = {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}
    names |= {family.name for family in text_string_to_metric_families(page)}
    names |= {f"{name}_total" for name in names}
    asked = set(re.findall(r"\b(?:shortlist|process)_[a-z_]+", DASHBOARD.read_text()))
    assert len(asked) > 12
    assert asked <= names
    assert {"shortlist_collections", "shortlist_collections_open", "shortlist_collections_damaged"} <= asked


@pytest.mark.parametrize("panel", json.loads(DASHBOARD.read_text())["panels"], ids=lambda panel: panel["title"])
def test_a_panel_of_the_dashboard_has_what_grafana_needs(panel: dict[str, Any]) -> None:
    if panel["type"] == "row":
        return
    assert panel["gridPos"].keys() == {"h", "w", "x", "y"}
    assert panel["targets"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["expr"] and target["datasource"]["uid"] == "${source}" for target in panel["targets"])


# -------------------------------------------------------------------------------------------------------------- traces


async def ingest_an_owl(channel: grpc.aio.Channel) -> None:
    """One document in a new collection."""
    await collection_service_pb2_grpc.CollectionServiceStub(channel).CreateCollection(
        collection_service_pb2.CreateCollectionRequest(collection="docs"), timeout=10
    )
    operation = documents_pb.IngestOperation(position=1)
    operation.upsert.id, operation.upsert.text = "a", "an owl"
    operation.upsert.metadata.update({"n": 1})
    messages = [
        documents_pb.IngestRequest(start=documents_pb.IngestStart(collection="docs")),
        documents_pb.IngestRequest(batch=documents_pb.IngestBatch(operations=[operation])),
    ]
    async for _ in documents_grpc.DocumentServiceStub(channel).Ingest(iter(messages), timeout=10):
        pass


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_trace_of_a_search_has_every_stage_under_one_parent_and_the_callers_above(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", embedders=("hashing",))
    running = Server(config, tracer=provider.get_tracer("test"))
    port = await running.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await ingest_an_owl(channel)
            request = search_service_pb2.SearchRequest(collection="docs", query=search_pb2.Query(text="owl"))
            request.filter.exists.field = "n"
            traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            answer = await search_service_pb2_grpc.SearchServiceStub(channel).Search(
                request, timeout=10, metadata=(("traceparent", traceparent),)
            )
    finally:
        await running.stop(1)
        provider.shutdown()
    assert len(answer.hits) == 1
    trace_id = 0x0AF7651916CD43DD8448EB211C80319C
    spans = {span.name: span for span in exporter.get_finished_spans() if span.context.trace_id == trace_id}
    call, search = spans.pop("shortlist.v1.SearchService/Search"), spans.pop("search")
    assert f"{parent(call):016x}" == "b7ad6b7169203331"
    assert parent(search) == call.context.span_id
    ran = {field.name for field, _ in answer.report.timings.ListFields()} - {"total"}
    assert set(spans) == ran >= {"embed", "filter", "lexical", "dense", "fuse", "fetch", "rerank", "group"}
    for span in spans.values():
        assert parent(span) == search.context.span_id
        assert span.context.trace_id == call.context.trace_id
        start, end = times(span)
        assert times(search)[0] <= start <= end <= times(search)[1] + 1_000_000
    assert attributes(call)["rpc.grpc.status_code"] == "OK"
    everything = exporter.get_finished_spans()
    batches = {attributes(span)["shortlist.lane"]: span for span in everything if span.name == "batch"}
    assert set(batches) == {"query", "passage", "rerank"}
    for lane, stage in (("query", "embed"), ("rerank", "rerank")):
        batch = batches[lane]
        assert batch.parent is None
        assert [link.context.span_id for link in batch.links] == [search.context.span_id]
        assert [link.context.trace_id for link in batch.links] == [trace_id]
        assert attributes(batch)["shortlist.batch.items"] == 1
        begin = times(batch)[0]
        assert times(spans[stage])[0] <= begin + 1_000_000
        assert begin < times(spans[stage])[1]
    assert attributes(batches["query"])["shortlist.model"] == "hashing"
    assert attributes(batches["query"])["shortlist.batch.tokens"] == 1
    names = {span.context.span_id: span.name for span in everything}
    (link,) = batches["passage"].links
    assert names[link.context.span_id] == "shortlist.v1.DocumentService/Ingest"


async def test_what_a_worker_does_is_in_the_trace_of_who_called_it(tmp_path: Path) -> None:
    exporters = InMemorySpanExporter(), InMemorySpanExporter()
    providers = []
    for exporter in exporters:
        # As the SDK does when nothing else is set: what the caller does not record, it does not record either.
        providers.append(TracerProvider(sampler=ParentBased(ALWAYS_ON)))
        providers[-1].add_span_processor(SimpleSpanProcessor(exporter))
    served, worked = exporters
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", embedders=("hashing",), health_interval_seconds=600.0)
    worker = Worker(config, tracer=providers[1].get_tracer("test"))
    address = f"127.0.0.1:{await worker.start()}"
    running = Server(config.replace(workers=(address,)), tracer=providers[0].get_tracer("test"))
    port = await running.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await ingest_an_owl(channel)
            (cut,) = [span for span in worked.get_finished_spans() if span.name.endswith("/Cut")]
            worked.clear()
            searches = search_service_pb2_grpc.SearchServiceStub(channel)
            for text, sampled in (("owl", "01"), ("not recorded", "00")):
                request = search_service_pb2.SearchRequest(collection="docs", query=search_pb2.Query(text=text))
                request.explain_texts = True
                traceparent = f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{sampled}"
                await searches.Search(request, timeout=10, metadata=(("traceparent", traceparent),))
    finally:
        await running.stop(1)
        await worker.stop(1)
        for provider in providers:
            provider.shutdown()
    spans = {span.context.span_id: span for span in served.get_finished_spans()}
    (embed,) = [span for span in worked.get_finished_spans() if span.name.endswith("EmbedQueries")]
    batch = spans[parent(embed)]
    assert (batch.name, attributes(batch)["shortlist.lane"]) == ("batch", "query")
    assert embed.context.trace_id == batch.context.trace_id
    assert spans[batch.links[0].context.span_id].name == "search"
    (render,) = [span for span in worked.get_finished_spans() if span.name.endswith("RenderQuery")]
    assert spans[parent(render)].name == "search"
    assert spans[parent(cut)].name == "shortlist.v1.DocumentService/Ingest"


async def test_a_batch_is_linked_to_each_request_that_it_holds_and_says_when_it_failed() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    gate, entered = threading.Event(), threading.Event()

    def run(items: Sequence[int]) -> Sequence[int | Exception]:
        entered.set()
        assert gate.wait(10)
        return [ValueError("odd") if item % 2 else item for item in items]

    limits = LaneLimits(batch_cost=100, batch_items=8, window_batches=1, queue_cost=100)
    lane: Lane[int, int] = Lane("test", run, limits, Observer(tracer=tracer).lane("model", "query"))
    futures = lane.submit([(0, 1)], Deadline.after(10))
    assert entered.wait(10)
    requests = []
    for item in (2, 3):
        with tracer.start_as_current_span("request") as request:
            requests.append(request.get_span_context().span_id)
            futures += lane.submit([(item, 1), (item * 2, 1)], Deadline.after(10))
    gate.set()
    wait(futures, 10)
    lane.close()
    (batch,) = [span for span in exporter.get_finished_spans() if span.name == "batch"]  # the first held no request
    assert [link.context.span_id for link in batch.links] == requests
    assert attributes(batch)["shortlist.batch.items"] == 4
    assert batch.status.status_code is StatusCode.ERROR
    provider.shutdown()


# ---------------------------------------------------------------------------------------------------------------- logs


@pytest.fixture
def record() -> Iterator[logging.LogRecord]:
    token = request_id.set("abc")
    record = logging.LogRecord("shortlist_server.x", logging.WARNING, "f.py", 1, "what %s", ("happened",), None)
    record.__dict__["fields"] = {"total_ms": 3}
    yield record
    request_id.reset(token)


def test_a_line_for_machines_is_one_object_with_the_request_id(record: logging.LogRecord) -> None:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", parsed.pop("time"))
    assert parsed == {
        "level": "warning",
        "logger": "shortlist_server.x",
        "message": "what happened",
        "request_id": "abc",
        "fields": {"total_ms": 3},
    }


def test_a_line_for_people_has_the_request_id_and_the_fields(record: logging.LogRecord) -> None:
    assert HumanFormatter().format(record).endswith("WARNING abc shortlist_server.x: what happened total_ms=3")


def test_a_slow_search_is_logged_with_its_stages_and_the_callers_request_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def note(_: logging.LogRecord) -> bool:
        seen.append(request_id.get())
        return True

    caplog.handler.addFilter(note)
    with server(data_dir=tmp_path, slow_search_seconds=1e-6) as running:
        with Client(running.target) as client:
            client.create_collection("docs")
        with grpc.insecure_channel(running.target) as channel, caplog.at_level(logging.WARNING):
            request = search_service_pb2.SearchRequest(collection="docs", query=search_pb2.Query(text="owl"))
            search_service_pb2_grpc.SearchServiceStub(channel).Search(
                request, timeout=10, metadata=(("x-request-id", "mine-1"),)
            )
    (line,) = [r for r in caplog.records if r.name == "shortlist_server.slow"]
    assert line.__dict__["fields"].keys() >= {
        "collection",
        "total_ms",
        "embed_ms",
        "dense_ms",
        "group_ms",
        "dense_strategy",
    }
    assert seen == ["mine-1"]


# -------------------------------------------------------------------------------------------------------------- health


def healthy(target: str) -> dict[str, bool]:
    with grpc.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return {
            name: stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
            == health_pb2.HealthCheckResponse.SERVING
            for name in SERVICES
        }


def test_a_server_at_rest_is_healthy_in_all_its_parts(tmp_path: Path) -> None:
    with server(data_dir=tmp_path) as running:
        assert healthy(running.target) == dict.fromkeys(SERVICES, True)


def test_with_a_full_disk_searching_is_healthy_and_writing_is_not(tmp_path: Path) -> None:
    with server(data_dir=tmp_path, min_free_disk_bytes=2**62) as running:
        unhealthy = {name for name, good in healthy(running.target).items() if not good}
    assert unhealthy == {"shortlist.v1.DocumentService"}


def test_when_the_model_stops_answering_searching_is_not_healthy(tmp_path: Path) -> None:
    with server(data_dir=tmp_path, health_interval_seconds=0.05) as running:
        running._server._models.close()
        end = time.monotonic() + 10
        while healthy(running.target)["shortlist.v1.SearchService"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert {name for name, good in healthy(running.target).items() if not good} == {"", SERVICES[1]}


async def test_a_watch_is_told_when_the_server_leaves(tmp_path: Path) -> None:
    running = Server(Config(data_dir=tmp_path, listen="127.0.0.1:0", embedders=("hashing",)))
    port = await running.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(running.stop(10))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await asyncio.wait_for(stopping, 5)
