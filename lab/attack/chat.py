"""`python -m lab.attack.chat HOST PORT`: chats with the model without end, and prints when each token came.

One line for each token: seconds of CLOCK_MONOTONIC. After a completion it asks for the next one, and
asks again if one breaks off: the time until then is a pause like any other.
"""

from __future__ import annotations

import http.client
import sys
import time

from lab.chat import stream_chat
from lab.netns import LabError

PROMPT = "Tell me a long story about a river, a mill and a bridge."
MAX_TOKENS = 1000


def _note(_: str) -> None:
    print(f"{time.monotonic():.4f}", flush=True)


def main() -> None:
    host, port = sys.argv[1], int(sys.argv[2])
    while True:
        try:
            stream_chat(host, port, PROMPT, max_tokens=MAX_TOKENS, on_token=_note)
        except (OSError, http.client.HTTPException, LabError) as error:
            print(f"the chat broke: {error}", file=sys.stderr, flush=True)
            time.sleep(0.02)


if __name__ == "__main__":
    main()
