"""The cheap checks, made before a model is loaded, converted or downloaded, which may take minutes.

The composition roots call ``check`` once, in a thread, because it resolves host names.
"""

from __future__ import annotations

from shortlist_server.config import Config
from shortlist_server.inference.entries import check_models
from shortlist_server.rpc.preflight import check_addresses, check_certificates
from shortlist_server.storage.disk.preflight import check_folders


def check(config: Config, *, keeps_collections: bool) -> None:
    """Refuses settings, files, folders and addresses that the process could not run with.

    Args:
        keeps_collections: whether the data folder holds collections, so that it must be writable.

    Raises:
        InvalidArgument: a setting is wrong, or the file or folder that it names.
        ModelNotFound: a model's folder is missing.
        Unavailable: an address is taken, or a folder is not writable.
    """
    check_certificates(config)
    check_folders(config, writes=keeps_collections)
    check_models(config)
    check_addresses(config)
