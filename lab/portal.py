"""A captive portal's web server: sends every request to a login page, each by a URL of its own.

`python -m lab.portal HOST PORT`
"""

from __future__ import annotations

import secrets
import socketserver
import sys
from http.server import BaseHTTPRequestHandler

PAGE = "http://portal.example/login"


class _Portal(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"{PAGE}?session={secrets.token_hex(8)}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    # No HTTPServer: that one looks up its own name, which takes long where no name server answers.
    server = socketserver.ThreadingTCPServer((sys.argv[1], int(sys.argv[2])), _Portal)
    print("serving", flush=True)
    server.serve_forever()
