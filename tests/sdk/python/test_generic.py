"""Routes to anything that is no model server: real WebSocket and gRPC clients and servers on both sides."""

import json
import queue
import socket
import threading
import time

import grpc
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from harness.configured import BURST_OF_THREE, NO_CHAT, PERSONAL, tokens
from harness.duplex import SERVICE, Grpc, WebSockets, channel, until
from harness.gateway import running_gateway, write_configuration

AUTHORIZATION = {"Authorization": f"Bearer {PERSONAL}"}
#: The contract says 250 ms; a busy machine may need a little more.
LEFT_SECONDS = 0.5
FILTERS = ["identity", "limits", {"access": {"scope": "chat:create"}}]


class Generic:
    def __init__(self, gateway, sockets, calls):
        self.gateway, self.sockets, self.calls = gateway, sockets, calls

    def websocket(self, path="/chat/room?x=1", headers=AUTHORIZATION, **more):
        return connect(
            f"ws://127.0.0.1:{self.gateway.port}{path}", additional_headers=headers, proxy=None, max_size=None, close_timeout=1, **more
        )

    def log_lines(self):
        lines = (json.loads(line) for line in self.gateway.child.output().splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("message") == "request"]


@pytest.fixture(scope="module")
def generic(tmp_path_factory, dead_url):
    directory = tmp_path_factory.mktemp("generic")
    with WebSockets() as sockets, Grpc() as calls:
        grpc_url = f"http://127.0.0.1:{calls.port}"
        routes = [
            {"path": "/chat/{*rest}", "methods": ["GET"], "upstream": sockets.url, "upgrade": ["websocket"], "filters": FILTERS,
             "forward_headers": ["origin"]},
            {"path": "/plain/{*rest}", "methods": ["GET"], "upstream": sockets.url},
            {"path": "/short/{*rest}", "methods": ["GET"], "upstream": sockets.url, "upgrade": ["websocket"], "idle_timeout_seconds": 1},
            {"path": f"/{SERVICE}/{{*method}}", "methods": ["POST"], "upstream": grpc_url, "http2": True, "filters": FILTERS,
             "forward_headers": ["x-wanted"], "max_body_bytes": 1 << 30},
            {"path": "/test.Dead/{*method}", "methods": ["POST"], "upstream": dead_url, "http2": True},
            {"path": "/test.Small/{*method}", "methods": ["POST"], "upstream": grpc_url, "http2": True, "max_body_bytes": 1000},
        ]
        write_configuration(directory, gateway={"routes": routes}, models=[], tokens=tokens())
        with running_gateway(directory, bearer=PERSONAL) as gateway:
            yield Generic(gateway, sockets, calls)


@pytest.fixture
def calls(generic):
    """A client of the service behind the gateway; its methods are called by name."""
    with channel(generic.gateway.port) as opened:
        yield Calls(opened)


class Calls:
    def __init__(self, opened):
        path = f"/{SERVICE}/"
        self.unary = self._with_bearer(opened.unary_unary(path + "Unary"))
        self.client_stream = self._with_bearer(opened.stream_unary(path + "ClientStream"))
        self.server_stream = self._with_bearer(opened.unary_stream(path + "ServerStream"))
        self.both = self._with_bearer(opened.stream_stream(path + "Both"))
        self.flood = self._with_bearer(opened.stream_stream(path + "Flood"))
        self.bare = opened.unary_unary(path + "Unary")
        self.opened = opened

    @staticmethod
    def _with_bearer(method):
        bearer = ("authorization", f"Bearer {PERSONAL}")

        class WithBearer:
            def __call__(self, request, metadata=(), timeout=20, **more):
                return method(request, metadata=(bearer, *metadata), timeout=timeout, **more)

            def with_call(self, request, metadata=(), timeout=20):
                return method.with_call(request, metadata=(bearer, *metadata), timeout=timeout)

            def future(self, request, metadata=(), timeout=20):
                return method.future(request, metadata=(bearer, *metadata), timeout=timeout)

        return WithBearer()


# WebSocket


def test_messages_pass_both_ways(generic):
    with generic.websocket(subprotocols=["other"], origin="https://app.example") as socket:
        assert socket.subprotocol == "other"
        assert socket.response.headers["x-request-id"]
        for message in ("hello", "é🦀", b"\x00\xff", "x" * 1_000_000, ""):
            socket.send(message)
            assert socket.recv(timeout=10) == message
        assert socket.ping().wait(10)
    seen = generic.sockets.requests[-1]
    assert seen.path == "/upstream/chat/room?x=1"
    assert seen.headers["Origin"] == "https://app.example"
    assert "Authorization" not in seen.headers
    assert seen.headers["User-Agent"].startswith("dgx-gateway/")


def test_what_the_closing_side_says_reaches_the_other(generic):
    with generic.websocket() as socket:
        socket.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=10)
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "as you wish")


def test_filters_run_before_the_switch(generic):
    before = len(generic.sockets.requests)
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(InvalidStatus) as caught, generic.websocket(headers=headers):
            pass
        assert caught.value.response.status_code == 401
        assert json.loads(caught.value.response.body)["error"]["type"] == "authentication_error"
    assert len(generic.sockets.requests) == before


def test_a_route_that_does_not_allow_it_does_not_switch(generic):
    with pytest.raises(InvalidStatus) as caught, generic.websocket("/plain/a"):
        pass
    # the upstream sees an ordinary request and says what it thinks of it
    assert caught.value.response.status_code == 426


def test_a_client_that_leaves_closes_the_upstream(generic):
    with generic.websocket() as client:
        client.send("here")
        client.recv(timeout=10)
        ended = len(generic.sockets.ended)
        begun = time.monotonic()
        client.socket.shutdown(socket.SHUT_RDWR)
        until("the upstream is left", lambda: len(generic.sockets.ended) > ended)
        assert generic.sockets.ended[-1] - begun < LEFT_SECONDS


def test_an_upstream_that_leaves_closes_the_client(generic):
    with generic.websocket() as client:
        client.send("here")
        client.recv(timeout=10)
        begun = time.monotonic()
        generic.sockets.connections[-1].socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=10)
        assert time.monotonic() - begun < LEFT_SECONDS


def test_silence_of_both_sides_ends_the_connection_and_messages_keep_it(generic):
    with generic.websocket("/short/a", headers={}) as client:
        for _ in range(4):
            time.sleep(0.5)
            client.send("still here")
            client.recv(timeout=10)
        begun = time.monotonic()
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=10)
        assert 0.9 < time.monotonic() - begun < 3


def test_much_passes_both_ways_at_the_same_time(generic):
    """More than all buffers between the two sides hold: each has to read while it writes."""
    message, count = bytes(1_000_000), 40
    with generic.websocket() as client:
        sender = threading.Thread(target=lambda: [client.send(message) for _ in range(count)])
        sender.start()
        for _ in range(count):
            assert len(client.recv(timeout=20)) == len(message)
        sender.join()


def test_a_switched_connection_is_one_request_in_the_log(generic):
    with generic.websocket("/chat/logged") as client:
        request = client.response.headers["x-request-id"]
        client.send("hello")
        client.recv(timeout=10)
        assert not [line for line in generic.log_lines() if line["request.id"] == request], "it has not ended"
    until("it is logged", lambda: any(line["request.id"] == request for line in generic.log_lines()))
    (line,) = [line for line in generic.log_lines() if line["request.id"] == request]
    assert (line["http.status"], line["outcome"]) == (101, "answered")
    assert line["tenant.id"] == "acme"


# gRPC


def test_a_unary_call_with_metadata_and_trailers(generic, calls):
    answer, call = calls.unary.with_call(b"hello", metadata=(("x-wanted", "yes"), ("x-other", "no")))
    assert answer == b"hello"
    assert dict(call.initial_metadata())["x-initial"] == "first"
    trailing = dict(call.trailing_metadata())
    assert (trailing["x-trailing"], trailing["x-binary-bin"]) == ("last", b"\x00\xff")
    seen = generic.calls.metadata[-1]
    assert seen["x-wanted"] == "yes"
    assert not {"authorization", "x-other"} & seen.keys()


def test_a_call_that_the_service_refuses(calls):
    with pytest.raises(grpc.RpcError) as caught:
        calls.unary(b"refuse")
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "not äöü now"
    assert dict(caught.value.trailing_metadata())["x-trailing"] == "last"


def test_a_message_of_4_mb(calls):
    message = bytes(range(256)) * (4 * 4096)
    assert calls.unary(message) == message


def test_a_stream_of_the_client(calls):
    assert calls.client_stream(b"%d" % number for number in range(100)) == b",".join(b"%d" % number for number in range(100))


def test_a_stream_of_the_server(calls):
    assert len(list(calls.server_stream(b"0"))) == 0
    assert list(calls.server_stream(b"1000"))[-1] == b"999"


def test_each_message_is_answered_before_the_next_is_sent(calls):
    sending = queue.Queue()
    answers = calls.both(iter(sending.get, None))
    for number in range(20):
        sending.put(b"%d" % number)
        assert next(answers) == b"%d" % number
    sending.put(None)
    assert list(answers) == []
    assert answers.code() == grpc.StatusCode.OK


def test_large_messages_both_ways_at_the_same_time(calls):
    message, count = bytes(4_000_000), 15
    assert sum(len(answer) for answer in calls.both(message for _ in range(count))) == count * len(message)


def test_a_service_that_answers_much_before_it_reads(calls):
    """The request waits at a closed window while the response flows: neither may hold up the other."""
    megabytes = 40
    requests = [b"%d" % megabytes, *(bytes(1024 * 1024) for _ in range(megabytes))]
    answers = list(calls.flood(iter(requests)))
    assert len(answers) == megabytes + 1
    assert answers[-1] == b"%d" % (megabytes * 1024 * 1024)


def test_a_deadline_reaches_the_service(generic, calls):
    cancelled = len(generic.calls.cancelled)
    with pytest.raises(grpc.RpcError) as caught:
        calls.unary(b"hang", timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    until("the service is told", lambda: len(generic.calls.cancelled) > cancelled)


def test_a_call_that_is_cancelled_is_cancelled_at_the_service(generic, calls):
    while generic.calls.began.acquire(blocking=False):
        pass
    call = calls.unary.future(b"hang")
    assert generic.calls.began.acquire(timeout=20)
    cancelled = len(generic.calls.cancelled)
    begun = time.monotonic()
    call.cancel()
    until("the service is told", lambda: len(generic.calls.cancelled) > cancelled)
    assert generic.calls.cancelled[-1] - begun < LEFT_SECONDS


@pytest.mark.parametrize(
    ("service", "bearer", "size", "status"),
    [
        (SERVICE, None, 10, grpc.StatusCode.UNAUTHENTICATED),
        (SERVICE, NO_CHAT, 10, grpc.StatusCode.PERMISSION_DENIED),
        ("test.Other", PERSONAL, 10, grpc.StatusCode.UNIMPLEMENTED),
        ("test.Dead", PERSONAL, 10, grpc.StatusCode.UNAVAILABLE),
        ("test.Small", PERSONAL, 2000, grpc.StatusCode.UNKNOWN),
    ],
)
def test_what_a_client_sees_of_errors_of_the_gateway(calls, service, bearer, size, status):
    metadata = [("authorization", f"Bearer {bearer}"), ("spass-user-id", "alice")] if bearer else []
    with pytest.raises(grpc.RpcError) as caught:
        calls.opened.unary_unary(f"/{service}/Unary")(bytes(size), metadata=metadata, timeout=20)
    assert caught.value.code() == status, caught.value.details()


def test_the_limit_of_requests_is_seen_as_unavailable(calls):
    metadata = [("authorization", f"Bearer {BURST_OF_THREE}"), ("spass-user-id", "bob")]
    with pytest.raises(grpc.RpcError) as caught:
        for _ in range(10):
            calls.bare(b"x", metadata=metadata, timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
