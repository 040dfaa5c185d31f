"""The one table of how many elements each repeated field of a request may have.

A test holds it equal to the protos. The bound of a field in a document is wider than the document's own limit: over
its limit one document fails alone, over the bound the whole message fails.
"""

from __future__ import annotations

from shortlist_server.config import Config
from shortlist_server.errors import InvalidFilter
from shortlist_server.publishing.names import MAX_FILES
from shortlist_server.rpc.convert import evaluation, fields, settings
from shortlist_server.rpc.wire import Limit

MAX_BATCH = 100
"""Searches of a BatchSearch."""

MAX_GET = 1000
MAX_DELETE = 10_000
MAX_OPERATIONS = 1000
"""Operations, or acknowledgements, of one message."""

MAX_PATHS = 64
"""Fields that an update names."""

MAX_NAMES = 10_000
"""Collections that a backup names."""

MAX_QRELS = 10_000
"""Judged documents of one query."""

MAX_VALUES = 65_536
"""Values of a vector, and elements of an object or a list in metadata."""

MAX_TEXTS = 100_000
"""Texts in one request to a worker. Servers cut their batches by tokens, far below it."""


def limits(config: Config) -> dict[str, Limit]:
    """The limit of each repeated field that a request may hold, by the field's full name."""
    nodes = Limit(config.max_filter_nodes, InvalidFilter)
    return {
        "shortlist.v1.BatchSearchRequest.requests": Limit(MAX_BATCH),
        "shortlist.v1.Query.vector": Limit(MAX_VALUES),
        "shortlist.v1.AllOf.filters": nodes,
        "shortlist.v1.AnyOf.filters": nodes,
        "shortlist.v1.OneOf.values": Limit(config.max_filter_values, InvalidFilter),
        "shortlist.v1.Rerank.stages": Limit(settings.MAX_RERANK_STAGES),
        "shortlist.v1.IngestBatch.operations": Limit(MAX_OPERATIONS),
        "shortlist.v1.Document.vector": Limit(MAX_VALUES),
        "google.protobuf.Struct.fields": Limit(MAX_VALUES),
        "google.protobuf.ListValue.values": Limit(MAX_VALUES),
        "shortlist.v1.GetRequest.ids": Limit(MAX_GET),
        "shortlist.v1.DocumentIds.ids": Limit(MAX_DELETE),
        "shortlist.v1.RetryDeadLettersRequest.numbers": Limit(MAX_OPERATIONS),
        "shortlist.v1.DeleteDeadLettersRequest.numbers": Limit(MAX_DELETE),
        "shortlist.v1.CollectionConfig.filterable_fields": Limit(fields.MAX_FILTERABLE_FIELDS),
        "google.protobuf.FieldMask.paths": Limit(MAX_PATHS),
        "shortlist.v1.BackupRequest.collections": Limit(MAX_NAMES),
        "shortlist.v1.StartModelUploadRequest.files": Limit(MAX_FILES),
        "shortlist.v1.EvaluateRequest.queries": Limit(evaluation.MAX_QUERIES),
        "shortlist.v1.EvaluateRequest.settings": Limit(evaluation.MAX_SETTINGS),
        "shortlist.v1.CompareGenerationsRequest.queries": Limit(evaluation.MAX_QUERIES),
        "shortlist.v1.JudgedQuery.qrels": Limit(MAX_QRELS),
        "shortlist.worker.v1.EmbedQueriesRequest.queries": Limit(MAX_TEXTS),
        "shortlist.worker.v1.EmbedPassagesRequest.contents": Limit(MAX_TEXTS),
        "shortlist.worker.v1.RerankRequest.texts": Limit(MAX_TEXTS),
        "shortlist.worker.v1.RenderCandidatesRequest.texts": Limit(MAX_TEXTS),
    }
