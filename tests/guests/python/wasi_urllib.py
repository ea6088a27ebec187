"""`urllib.request` over `wasi:http`: a connector has no sockets, which is what the one of Python's library uses.

`install()` once; after that `urllib.request.urlopen` works as ever, and an answer of 400 and above is an `HTTPError`.
"""

import io
import weakref
from email.message import Message
from http.client import responses
from urllib import request, response
from urllib.error import URLError

from componentize_py_types import Err
from wit_world.imports import outgoing_handler, streams, types

METHODS = {
    "GET": types.Method_Get(),
    "HEAD": types.Method_Head(),
    "POST": types.Method_Post(),
    "PUT": types.Method_Put(),
    "DELETE": types.Method_Delete(),
    "CONNECT": types.Method_Connect(),
    "OPTIONS": types.Method_Options(),
    "TRACE": types.Method_Trace(),
    "PATCH": types.Method_Patch(),
}

WRITE = 4096
"""The most bytes that `blocking-write-and-flush` takes at once."""


class WasiHandler(request.BaseHandler):
    """Opens URLs."""

    def prepare(self, req):
        """Adds the headers that `urllib` adds, but for those that belong to the host."""
        added = list(self.parent.addheaders)
        if req.data is not None:
            added.append(("Content-type", "application/x-www-form-urlencoded"))
        for name, value in added:
            if not req.has_header(name.capitalize()):
                req.add_unredirected_header(name.capitalize(), value)
        return req

    http_request = https_request = prepare

    def http_open(self, req):
        return send(req)

    def https_open(self, req):
        return send(req)


def send(req):
    data = b"" if req.data is None else req.data if isinstance(req.data, bytes) else b"".join(req.data)
    headers = [(name, value.encode("latin-1")) for name, value in req.header_items()]
    if req.data is not None:
        headers.append(("content-length", str(len(data)).encode()))
    try:
        outgoing = types.OutgoingRequest(types.Fields.from_list(headers))
        method = req.get_method()
        outgoing.set_method(METHODS.get(method) or types.Method_Other(method))
        outgoing.set_scheme(types.Scheme_Https() if req.type == "https" else types.Scheme_Http())
        outgoing.set_authority(req.host)
        outgoing.set_path_with_query(req.selector)
        body = outgoing.body()
        future = outgoing_handler.handle(outgoing, options(req.timeout))
        write(body, data)
        return arrived(req, future)
    except Err as error:
        late = isinstance(error.value, types.ErrorCode_ConnectionTimeout)
        raise URLError(TimeoutError("timed out") if late else type(error.value).__name__) from error


def options(timeout):
    """How long one silence of the server may last; without a time-out it is the host who says so."""
    options = types.RequestOptions()
    if isinstance(timeout, (int, float)):
        nanoseconds = int(timeout * 1_000_000_000)
        options.set_first_byte_timeout(nanoseconds)
        options.set_between_bytes_timeout(nanoseconds)
    return options


def write(body, data):
    with body.write() as stream:
        for start in range(0, len(data), WRITE):
            stream.blocking_write_and_flush(data[start : start + WRITE])
    types.OutgoingBody.finish(body, None)


def arrived(req, future):
    with future.subscribe() as ready:
        ready.block()
    answer = future.get().value
    if isinstance(answer, Err):
        raise answer
    incoming = answer.value if hasattr(answer, "value") else answer
    headers = Message()
    with incoming.headers() as fields:
        for name, value in fields.entries():
            headers[name] = value.decode("latin-1")
    status = incoming.status()
    result = response.addinfourl(io.BufferedReader(Body(incoming)), headers, req.full_url, status)
    result.msg = result.reason = responses.get(status, "")
    return result


class Body(io.RawIOBase):
    """A response's body, read as it comes."""

    def __init__(self, incoming):
        body = incoming.consume()
        self.stream = body.stream()
        # A stream must go before its body, in whatever order the collector finds them.
        self.release = weakref.finalize(self, release, self.stream, body, incoming)

    def close(self):
        self.release()
        super().close()

    def readable(self):
        return True

    def readinto(self, buffer):
        try:
            chunk = self.stream.blocking_read(len(buffer))
        except Err as error:
            if isinstance(error.value, streams.StreamError_Closed):
                return 0
            raise OSError(error.value.value.to_debug_string()) from error
        buffer[: len(chunk)] = chunk
        return len(chunk)


def release(*resources):
    for resource in resources:
        resource.__exit__(None, None, None)


def install():
    opener = request.OpenerDirector()
    opener.addheaders = [("user-agent", "keyward-connector")]
    for handler in (WasiHandler, request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler, request.UnknownHandler):
        opener.add_handler(handler())
    request.install_opener(opener)
