"""`python -m lab.lying_seed PORT NODE_HOST:PORT`: a hostile seed over plain HTTP, or an attacker on the way.

Whatever it is asked, it names this node. Prints a line when it listens, and one for each question.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Lying(BaseHTTPRequestHandler):
    node = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"jsonrpc": "2.0", "id": "1", "result": {"addr": self.node, "pubkey": "ab" * 32}})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
        print("asked", flush=True)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def main() -> None:
    port, Lying.node = int(sys.argv[1]), sys.argv[2]
    server = ThreadingHTTPServer(("", port), Lying)
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
