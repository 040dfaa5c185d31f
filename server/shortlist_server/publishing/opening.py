"""Opens the published models of a server at its start. Blocks; called once, by one thread."""

from __future__ import annotations

from shortlist_server.config import Config
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.precedence import Precedence
from shortlist_server.inference.published import PublishedModels
from shortlist_server.observe.observer import Observer
from shortlist_server.publishing.publisher import Publisher
from shortlist_server.publishing.shelf import FOLDER, ModelShelf
from shortlist_server.storage.base import Store


def open_publisher(
    config: Config, store: Store, models: LoadedModels, observer: Observer, precedence: Precedence
) -> Publisher | None:
    """The publisher, after it has loaded what collections use; None where the models run on workers."""
    if config.workers:
        return None
    shelf = ModelShelf(
        config.data_dir / FOLDER, max_bytes=config.max_model_bytes, min_free_bytes=config.min_free_disk_bytes
    )
    publisher = Publisher(shelf, store, models, PublishedModels(config, observer, precedence), observer)
    publisher.load_used()
    return publisher
