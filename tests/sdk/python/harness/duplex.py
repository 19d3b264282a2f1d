"""Upstreams that are no model servers: a WebSocket server and a gRPC server, both with the usual packages."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from websockets.sync.server import serve

#: Larger than the message of 4 MB that gRPC takes by default.
MESSAGE_BYTES = 8 * 1024 * 1024
SERVICE = "test.Echo"
#: How long anything takes that happens at once, on a busy machine.
SOON = 20


def until(what: str, ready) -> None:
    end = time.monotonic() + SOON
    while not ready():
        assert time.monotonic() < end, f"waited too long until {what}"
        time.sleep(0.005)


class WebSockets:
    """Echoes messages; remembers the head of each handshake, and when each connection ended."""

    def __init__(self):
        self.requests = []
        self.ended = []
        self.connections = []

    def __enter__(self):
        self._server = serve(
            self._serve, "127.0.0.1", 0, max_size=None, close_timeout=1, select_subprotocol=lambda _, offered: next(iter(offered), None)
        )
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_):
        for connection in self.connections:
            connection.socket.close()
        self._server.shutdown()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/upstream"

    def _serve(self, connection):
        self.requests.append(connection.request)
        self.connections.append(connection)
        try:
            for message in connection:
                if message == "close":
                    connection.close(4001, "as you wish")
                    break
                connection.send(message)
        finally:
            self.ended.append(time.monotonic())


class Grpc:
    """A service with all four kinds of calls, on bytes. What a call asks for stands in its first message."""

    def __init__(self):
        self.metadata = []
        self.cancelled = []
        self.began = threading.Semaphore(0)

    def __enter__(self):
        self._server = grpc.server(
            ThreadPoolExecutor(16),
            options=[("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)],
        )
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self._client_stream),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self._server_stream),
            "Both": grpc.stream_stream_rpc_method_handler(self._both),
            "Flood": grpc.stream_stream_rpc_method_handler(self._flood),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(None).wait(5)

    def _enter(self, context):
        self.metadata.append(dict(context.invocation_metadata()))
        context.add_callback(lambda: self.cancelled.append(time.monotonic()))
        self.began.release()

    def _unary(self, request, context):
        self._enter(context)
        context.send_initial_metadata((("x-initial", "first"),))
        context.set_trailing_metadata((("x-trailing", "last"), ("x-binary-bin", b"\x00\xff")))
        if request == b"refuse":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not äöü now")
        if request == b"hang":
            while context.is_active():
                time.sleep(0.002)
        return request

    def _client_stream(self, requests, context):
        self._enter(context)
        return b",".join(requests)

    def _server_stream(self, request, context):
        self._enter(context)
        count, _, then = request.partition(b" ")
        for number in range(int(count)):
            yield b"%d" % number
        while then == b"hang" and context.is_active():
            time.sleep(0.002)

    def _both(self, requests, context):
        self._enter(context)
        yield from requests

    def _flood(self, requests, context):
        """Sends much before it reads anything, as it may."""
        self._enter(context)
        first = next(requests)
        for _ in range(int(first)):
            yield bytes(1024 * 1024)
        yield b"%d" % sum(len(request) for request in requests)


@contextlib.contextmanager
def channel(port: int):
    limits = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[*limits, ("grpc.enable_retries", 0)]) as channel:
        yield channel
