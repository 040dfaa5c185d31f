"""Imports gRPC so that its C core does not write log lines of its own to standard error.

The core writes there when a connection breaks or a handshake fails, in the middle of a program's output. What matters
of it reaches the program as an error. The core reads the variable ``GRPC_VERBOSITY`` once, while it is imported, and
offers no other way to set it; the variable is set for this moment only. Nothing happens where the user has set it, or
``GRPC_TRACE``, or the program has imported gRPC before.
"""

from __future__ import annotations

import importlib
import os
import sys

VERBOSITY = "GRPC_VERBOSITY"


def import_grpc() -> None:
    """Imports gRPC, quietly unless the user wants to hear it."""
    if "grpc" in sys.modules or VERBOSITY in os.environ or "GRPC_TRACE" in os.environ:
        return
    os.environ[VERBOSITY] = "NONE"
    try:
        importlib.import_module("grpc")
    finally:
        del os.environ[VERBOSITY]


import_grpc()
