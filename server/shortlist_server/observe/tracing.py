"""OpenTelemetry traces: a span for each call, and under that of a search one for each of its stages.

A batch that a model runs is a span too, linked to those of the requests it holds. What a worker does is under the span
in which it was called: that of a batch, or of a call.

The server needs the API alone; spans go nowhere until ``start_exporting`` installs the SDK, or a tracer is handed in.
Times of stages are measured elsewhere and their spans made when they are over, so that a search without tracing pays
nothing for it.
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
    """Sets the SDK up to send spans as the OTEL_* environment variables say; returns a tracer and what ends it.

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
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, which create() reads, go before this default.
    provider = TracerProvider(resource=Resource({SERVICE_NAME: NAME}).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer(NAME, version), provider.shutdown


def begin_call(tracer: Tracer, method: str, metadata: Mapping[str, str]) -> Span:
    """A span for a call to ``/package.Service/Method``, under the caller's where its metadata tells of one.

    The span becomes the current one of the calling task.
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
    """Ends a call's span with its status code; ``failed`` when that is the server's fault."""
    span.set_attribute("rpc.grpc.status_code", code)
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def begin_search(tracer: Tracer, collection: str) -> tuple[Span, Context, Token[Context]]:
    """A span for a search under the task's current one, whose place it takes, and the context of its stages.

    The token is for ``end_search``.
    """
    span = tracer.start_span("search", attributes={"shortlist.collection": collection})
    context = trace.set_span_in_context(span)
    return span, context, otel_context.attach(context)


def end_search(span: Span, token: Token[Context]) -> None:
    """Ends a search's span, in the task that began it."""
    otel_context.detach(token)
    span.end()


def add_stage(tracer: Tracer, context: Context, stage: str, seconds: float) -> None:
    """A span for a stage that has just ended after so many seconds."""
    end = time.time_ns()
    span = tracer.start_span(stage, context=context, start_time=end - round(seconds * 1e9))
    span.end(end)


def current() -> SpanContext | None:
    """What identifies the task's current span; None where there is none."""
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def carried() -> tuple[tuple[str, str], ...]:
    """What tells the other side of a call that is made now of the current span, as metadata; empty without one."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return tuple((key.lower(), value) for key, value in headers.items())


def begin_batch(
    tracer: Tracer, origins: Sequence[SpanContext], attributes: Mapping[str, str | int]
) -> tuple[Span, Token[Context]]:
    """A span for a batch, linked to the spans of what it holds, that is the thread's current one until ``end_batch``.

    Where none of those is recorded, neither is the batch, nor what others do for it.
    """
    linked = {origin.span_id: origin for origin in origins if origin.trace_flags.sampled}
    if linked:
        links = [Link(origin) for origin in linked.values()]
        span = tracer.start_span("batch", context=Context(), links=links, attributes=dict(attributes))
    else:
        span = NonRecordingSpan(origins[0]) if origins else INVALID_SPAN
    return span, otel_context.attach(trace.set_span_in_context(span, Context()))


def end_batch(span: Span, token: Token[Context], attributes: Mapping[str, str | int], *, failed: bool) -> None:
    """Ends a batch's span, in the thread that began it."""
    otel_context.detach(token)
    span.set_attributes(dict(attributes))
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
