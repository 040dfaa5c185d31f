"""What costs nothing is checked first: before a model is loaded, converted or downloaded, which may take minutes.

Called by the composition roots, once, in a thread; host names are resolved.
"""

from __future__ import annotations

from shortlist_server.config import Config
from shortlist_server.inference.entries import check_models
from shortlist_server.rpc.preflight import check_addresses, check_certificates
from shortlist_server.storage.disk.preflight import check_folders


def check(config: Config, *, keeps_collections: bool) -> None:
    """Refuses settings, files, folders and addresses that the process could not run with.

    Args:
        keeps_collections: whether the data folder holds collections, and is written to whatever happens.

    Raises:
        InvalidArgument: a setting, or the file or folder it names, is wrong.
        ModelNotFound: a model's folder is not there.
        Unavailable: an address is taken, or a folder may not be written to.
    """
    check_certificates(config)
    check_folders(config, writes=keeps_collections)
    check_models(config)
    check_addresses(config)
