"""OpenTelemetry traces: a span for each call, and within a search's span one for each stage.

A batch that a model runs has a span too, linked to the spans of its requests. A worker's spans are children of the span
that called it: a batch's or a call's.

The server needs the API alone; spans go nowhere until ``start_exporting`` installs the SDK, or the caller passes a
tracer. Stages are timed elsewhere and get their spans when they are over, so a search without tracing pays nothing.
Any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
)

from shortlist_server.errors import InvalidArgument

NAME = "shortlist"


def start_exporting(version: str) -> tuple[Tracer, Callable[[], None]]:
    """Sets up the SDK to send spans as the OTEL_* environment variables say; returns a tracer and its shutdown.

    Raises:
        InvalidArgument: the SDK or the OTLP exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidArgument(
            "tracing needs more libraries: pip install 'shortlist[tracing]'", field="tracing"
        ) from error
    # create() reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, which override this default.
    provider = TracerProvider(resource=Resource({SERVICE_NAME: NAME}).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer(NAME, version), provider.shutdown


def begin_call(tracer: Tracer, method: str, metadata: Mapping[str, str]) -> Span:
    """A span for a call to ``/package.Service/Method``, as a child of the caller's span if the metadata names one.

    It becomes the current span of the task.
    """
    service, _, name = method.lstrip("/").partition("/")
    span = tracer.start_span(
        f"{service}/{name}",
        context=propagate.extract(metadata),
        kind=SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
    )
    otel_context.attach(trace.set_span_in_context(span))
    return span


def end_call(span: Span, code: str, *, failed: bool) -> None:
    """Ends a call's span with its status code; ``failed`` marks a fault of the server."""
    span.set_attribute("rpc.grpc.status_code", code)
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def begin_search(tracer: Tracer, collection: str) -> tuple[Span, Context, Token[Context]]:
    """A span for a search, as a child of the task's current span; it becomes the current one.

    Also returns the context for the stages' spans, and the token for ``end_search``.
    """
    span = tracer.start_span("search", attributes={"shortlist.collection": collection})
    context = trace.set_span_in_context(span)
    return span, context, otel_context.attach(context)


def end_search(span: Span, token: Token[Context]) -> None:
    """Ends a search's span; call it in the task that began it."""
    otel_context.detach(token)
    span.end()


def add_stage(tracer: Tracer, context: Context, stage: str, seconds: float) -> None:
    """Adds a span for a stage that took ``seconds`` and has just ended."""
    end = time.time_ns()
    span = tracer.start_span(stage, context=context, start_time=end - round(seconds * 1e9))
    span.end(end)


def current() -> SpanContext | None:
    """The context of the task's current span; None without a span."""
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def carried() -> tuple[tuple[str, str], ...]:
    """The current span as metadata for a call made now; empty without a span."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return tuple((key.lower(), value) for key, value in headers.items())


def begin_batch(
    tracer: Tracer, origins: Sequence[SpanContext], attributes: Mapping[str, str | int]
) -> tuple[Span, Token[Context]]:
    """A span for a batch, linked to the spans of its items; it is the thread's current span until ``end_batch``.

    Where no item's span is recorded, the batch is not recorded either, nor what workers do for it.
    """
    linked = {origin.span_id: origin for origin in origins if origin.trace_flags.sampled}
    if linked:
        links = [Link(origin) for origin in linked.values()]
        span = tracer.start_span("batch", context=Context(), links=links, attributes=dict(attributes))
    else:
        span = NonRecordingSpan(origins[0]) if origins else INVALID_SPAN
    return span, otel_context.attach(trace.set_span_in_context(span, Context()))


def end_batch(span: Span, token: Token[Context], attributes: Mapping[str, str | int], *, failed: bool) -> None:
    """Ends a batch's span; call it in the thread that began it."""
    otel_context.detach(token)
    span.set_attributes(dict(attributes))
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
