"""Short messages between two processes over a socket, one at a time.

multiprocessing's Connection does the same, at a cost that every execution pays: it makes a selector
for each wait and a pickler for each message (there and back 120 µs, and 40 µs here).
"""

import marshal
import socket
import struct

LENGTH = struct.Struct("<I")  # goes before each message
CHUNK_BYTES = 1 << 16  # nearly every message comes whole in one of these


class Messages:
    """One end of a socket. Messages are made of numbers, str, None, lists, tuples and dicts.

    Args:
        descriptor: of a connected socket, which is owned from here on.
        wait_s: how long `receive` waits; None for as long as it takes.
    """

    def __init__(self, descriptor, wait_s=None):
        self._socket = socket.socket(fileno=descriptor)
        if wait_s is not None:
            # The kernel's own timeout: Python's would cost a `poll` before each `recv`.
            seconds, rest = divmod(wait_s, 1)
            timeval = struct.pack("ll", int(seconds), int(rest * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self._unread = b""

    def send(self, message):
        content = marshal.dumps(message)
        self._socket.sendall(LENGTH.pack(len(content)) + content)

    def receive(self):
        """The next message, or None if it has not come within `wait_s`.

        Raises:
            EOFError, OSError: the other end is closed.
        """
        while True:
            if len(self._unread) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(self._unread)[0]
                if len(self._unread) >= end:
                    content, self._unread = self._unread[LENGTH.size : end], self._unread[end:]
                    return marshal.loads(content)  # noqa: S302 -- from our own process
            try:
                chunk = self._socket.recv(CHUNK_BYTES)
            except BlockingIOError:
                return None
            if not chunk:
                raise EOFError
            self._unread += chunk

    def has_news(self):
        """Whether `receive` would not wait: a message is there, or the other end is closed."""
        try:
            self._socket.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return bool(self._unread)
        except OSError:
            pass  # it is closed
        return True

    def close(self):
        self._socket.close()
