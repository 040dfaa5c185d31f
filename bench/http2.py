"""A hostile gRPC client: it opens no window for answers, and sends bytes that are already compressed.

It speaks plain HTTP/2 and blocks. Each connection belongs to one thread.
"""

from __future__ import annotations

import socket
import struct

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings


class Connection:
    """A connection to a server.

    Attributes:
        statuses: number of calls by their gRPC status; "reset" for calls that ended without one.
    """

    def __init__(self, target: str, *, window: int | None = None, key: str = "", source: str = "") -> None:
        """Connects.

        Args:
            window: bytes of each answer that the server may send; None is the protocol's default.
            key: an API key to send.
            source: address to connect from; empty: any.
        """
        host, _, port = target.rpartition(":")
        self.statuses: dict[str, int] = {}
        self._headers = [("authorization", f"Bearer {key}")] if key else []
        self._socket = socket.create_connection(
            (host, int(port)), timeout=10, source_address=(source, 0) if source else None
        )
        self._http = h2.connection.H2Connection(
            config=h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._http.initiate_connection()
        if window is not None:
            self._http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._flush()

    def call(self, method: str, message: bytes, *, compressed: bool = False) -> None:
        """Starts a call with one request, without waiting for the answer."""
        stream = self._http.get_next_available_stream_id()
        encoding = [("grpc-encoding", "gzip")] if compressed else []
        self._http.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *encoding,
                *self._headers,
            ],
        )
        data = bytes([compressed]) + struct.pack(">I", len(message)) + message
        while data:
            size = min(self._http.max_outbound_frame_size, self._http.local_flow_control_window(stream), len(data))
            if size:
                self._http.send_data(stream, data[:size], end_stream=size == len(data))
                data = data[size:]
            self._flush()
            if not size and not self.read(10):
                raise ConnectionError("closed by the server")

    def read(self, seconds: float) -> bool:
        """Reads what the server sends within a time; False when the server has closed the connection."""
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            return True
        if not data:
            return False
        for event in self._http.receive_data(data):
            status: str | bytes | None = None
            if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                headers: dict[str | bytes, str | bytes] = dict(event.headers or ())
                status = headers.get("grpc-status")
            elif isinstance(event, h2.events.StreamReset):
                status = "reset"
            elif isinstance(event, h2.events.ConnectionTerminated):
                return False
            if isinstance(status, str):
                self.statuses[status] = self.statuses.get(status, 0) + 1
        self._flush()
        return True

    def close(self) -> None:
        """Closes it."""
        self._socket.close()

    def _flush(self) -> None:
        self._socket.settimeout(10)
        self._socket.sendall(self._http.data_to_send())


ENDED = (OSError, h2.exceptions.ProtocolError)
"""What a call or a read raises when the server has closed the connection."""
