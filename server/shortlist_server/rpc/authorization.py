"""Who may call what: the one table from methods to scopes and collections, and the interceptor that applies it.

A call carries its key as metadata ``authorization: Bearer KEY``. A method that is not in the table is refused, and a
test holds the table equal to the services. Key and scope are checked before anything of the request is read. The
collections that it names are checked before it reaches its servicer; those of a stream with the message that names
them. A stream ends when its key is withdrawn. Coroutines on the server's event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from shortlist_server.errors import PermissionDenied, Unauthenticated
from shortlist_server.keys import ANYONE, ApiKey, KeyRing, Scope
from shortlist_server.rpc.admission import Admission
from shortlist_server.rpc.exchange import Exchange
from shortlist_server.rpc.handlers import Behaviour, Streaming, Unary, WrappingInterceptor, wrap
from shortlist_server.rpc.reflection import V1, V1ALPHA

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context, Handler

AUTHORIZATION = "authorization"
BEARER = "bearer "
EVERY_COLLECTION = ("*",)

_key: ContextVar[ApiKey] = ContextVar("key", default=ANYONE)
_admission: ContextVar[Admission | None] = ContextVar("admission", default=None)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method demands: a scope, and a right to the collections that a request names.

    A request that asks for the texts that models read, which show documents and the server's prompts as they are,
    demands the scope admin as well.
    """

    scope: Scope
    collections: Callable[[Any], Iterable[str]]
    asks_texts: Callable[[Any], bool] = lambda _: False


def _none(_: Any) -> Iterable[str]:
    return ()


def _collection(request: Any) -> Iterable[str]:
    return (request.collection,)


def _every(_: Any) -> Iterable[str]:
    return EVERY_COLLECTION


RULES: dict[str, Rule] = {
    "/shortlist.v1.SearchService/Search": Rule(Scope.READ, _collection, lambda request: request.explain_texts),
    "/shortlist.v1.SearchService/BatchSearch": Rule(
        Scope.READ,
        lambda request: {search.collection for search in request.requests},
        lambda request: any(search.explain_texts for search in request.requests),
    ),
    "/shortlist.v1.DocumentService/Ingest": Rule(
        Scope.WRITE, lambda request: (request.start.collection,) if request.HasField("start") else ()
    ),
    "/shortlist.v1.DocumentService/Get": Rule(Scope.READ, _collection),
    "/shortlist.v1.DocumentService/Delete": Rule(Scope.WRITE, _collection),
    "/shortlist.v1.DocumentService/List": Rule(Scope.READ, _collection),
    "/shortlist.v1.DocumentService/Count": Rule(Scope.READ, _collection),
    "/shortlist.v1.DocumentService/ListDeadLetters": Rule(Scope.READ, _collection),
    "/shortlist.v1.DocumentService/RetryDeadLetters": Rule(Scope.WRITE, _collection),
    "/shortlist.v1.DocumentService/DeleteDeadLetters": Rule(Scope.WRITE, _collection),
    "/shortlist.v1.CollectionService/CreateCollection": Rule(Scope.WRITE, _collection),
    "/shortlist.v1.CollectionService/GetCollection": Rule(Scope.READ, _collection),
    # Lists those that the key may use.
    "/shortlist.v1.CollectionService/ListCollections": Rule(Scope.READ, _none),
    "/shortlist.v1.CollectionService/UpdateCollection": Rule(Scope.WRITE, _collection),
    "/shortlist.v1.CollectionService/DeleteCollection": Rule(Scope.WRITE, _collection),
    "/shortlist.v1.CollectionService/StartReindex": Rule(Scope.ADMIN, _collection),
    "/shortlist.v1.CollectionService/ListGenerations": Rule(Scope.READ, _collection),
    # The examples of a comparison are queries of other callers.
    "/shortlist.v1.CollectionService/CompareGenerations": Rule(Scope.ADMIN, _collection),
    "/shortlist.v1.CollectionService/SwitchGeneration": Rule(Scope.ADMIN, _collection),
    "/shortlist.v1.CollectionService/RollBackGeneration": Rule(Scope.ADMIN, _collection),
    "/shortlist.v1.CollectionService/DropGeneration": Rule(Scope.ADMIN, _collection),
    "/shortlist.v1.AdminService/GetServerInfo": Rule(Scope.READ, _none),
    # Reveals nothing beyond what the caller could learn by searching.
    "/shortlist.v1.AdminService/GetRecall": Rule(Scope.READ, _collection),
    "/shortlist.v1.AdminService/Verify": Rule(
        Scope.ADMIN, lambda request: (request.collection,) if request.collection else EVERY_COLLECTION
    ),
    "/shortlist.v1.AdminService/Backup": Rule(Scope.ADMIN, lambda request: request.collections or EVERY_COLLECTION),
    "/shortlist.v1.AdminService/ListBackups": Rule(Scope.ADMIN, _every),
    "/shortlist.v1.AdminService/Restore": Rule(
        Scope.ADMIN, lambda request: (request.collection, request.new_name or request.collection)
    ),
    "/shortlist.v1.AdminService/Evaluate": Rule(Scope.ADMIN, _collection),
    # Models belong to the whole server.
    "/shortlist.v1.AdminService/StartModelUpload": Rule(Scope.ADMIN, _every),
    "/shortlist.v1.AdminService/UploadModelChunk": Rule(Scope.ADMIN, _every),
    "/shortlist.v1.AdminService/PublishModel": Rule(Scope.ADMIN, _every),
    "/shortlist.v1.AdminService/ListModels": Rule(Scope.ADMIN, _every),
    "/shortlist.v1.AdminService/GetModel": Rule(Scope.ADMIN, _every),
    "/shortlist.v1.AdminService/UpdateModelCard": Rule(Scope.ADMIN, _every),
    "/shortlist.v1.AdminService/DeleteModel": Rule(Scope.ADMIN, _every),
    # An operation names no collection in its request: the servicer shows it only to keys that may use all of its own.
    "/shortlist.v1.OperationService/GetOperation": Rule(Scope.ADMIN, _none),
    "/shortlist.v1.OperationService/ListOperations": Rule(
        Scope.ADMIN, lambda request: (request.collection,) if request.collection else ()
    ),
    "/shortlist.v1.OperationService/CancelOperation": Rule(Scope.ADMIN, _none),
    "/shortlist.v1.OperationService/PauseOperation": Rule(Scope.ADMIN, _none),
    "/shortlist.v1.OperationService/ResumeOperation": Rule(Scope.ADMIN, _none),
    "/shortlist.v1.OperationService/WaitOperation": Rule(Scope.ADMIN, _none),
    f"/{V1}/ServerReflectionInfo": Rule(Scope.READ, _none),
    f"/{V1ALPHA}/ServerReflectionInfo": Rule(Scope.READ, _none),
}
"""Every method of a server but those of the health service, which anyone may call."""

WORKER_RULES: dict[str, Rule] = {
    f"/shortlist.worker.v1.WorkerService/{name}": Rule(Scope.READ, _none)
    for name in ("Describe", "Cut", "EmbedQueries", "EmbedPassages", "Rerank", "RenderQuery", "RenderCandidates")
}
"""Every method of a worker; it holds no collections, and changes nothing."""


def hold_right_to(collections: Iterable[str]) -> None:
    """Checks collections that the call's request did not name, now and again while the call goes on.

    Raises:
        PermissionDenied: the call's key has no right to one of them.
    """
    admission = _admission.get()
    if admission is not None:
        admission.check_collections(collections)


def calling_key() -> ApiKey:
    """The key of the call that this coroutine serves; ``ANYONE`` on a server without keys."""
    return _key.get()


class AuthorizationInterceptor(WrappingInterceptor):
    """Refuses calls without a known key, without the method's scope, or for a collection the key is not granted."""

    def __init__(self, keys: KeyRing | None, rules: Mapping[str, Rule] = RULES) -> None:
        """``keys`` None: there are no keys, and anyone may call."""
        super().__init__()
        self._keys = keys
        self._rules = rules

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """See ``WrappingInterceptor``."""

        def unary(behaviour: Behaviour) -> Unary:
            async def call(exchange: Exchange, context: Context) -> Any:
                admission, rule = self._admit(method, context)
                exchange.check(partial(_check_request, admission, rule))
                return await behaviour(exchange, context)

            return call

        def streaming(behaviour: Behaviour) -> Streaming:
            async def call(requests: Any, context: Context) -> AsyncIterator[Any]:
                admission, rule = self._admit(method, context)
                check = partial(_check_request, admission, rule)
                if isinstance(requests, Exchange):
                    requests.check(check)
                    responses = admission.responses(behaviour(requests, context))
                else:
                    # What was taken before a key was withdrawn is still answered.
                    responses = behaviour(admission.requests(requests, check), context)
                async for response in responses:
                    yield response

            return call

        return wrap(handler, unary=unary, streaming=streaming)

    def _admit(self, method: str, context: Context) -> tuple[Admission, Rule]:
        rule = self._rules.get(method)
        if rule is None:
            raise PermissionDenied("no key has a right to this method", metadata={"method": method})
        key = self._identify(context)
        admission = Admission(self._keys, key, rule.scope)
        admission.check_scope()
        _key.set(key)
        _admission.set(admission)
        return admission, rule

    def _identify(self, context: Context) -> ApiKey:
        if self._keys is None:
            return ANYONE
        given = [value for name, value in context.invocation_metadata() or () if name == AUTHORIZATION]
        if len(given) != 1 or not isinstance(given[0], str) or given[0][: len(BEARER)].lower() != BEARER:
            raise Unauthenticated("an API key is needed, in the metadata as 'authorization: Bearer KEY'")
        key = self._keys.find(given[0][len(BEARER) :].strip())
        if key is None:
            raise Unauthenticated("the API key is not known to this server")
        return key


def _check_request(admission: Admission, rule: Rule, request: Any) -> None:
    key = admission.key
    if Scope.ADMIN not in key.scopes and rule.asks_texts(request):
        raise PermissionDenied(
            f"API key '{key.name}' lacks the scope 'admin', which explain_texts needs",
            metadata={"key": key.name, "scope": Scope.ADMIN.value},
        )
    admission.check_collections(rule.collections(request))
