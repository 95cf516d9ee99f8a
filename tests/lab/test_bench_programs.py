"""The bench's own small programs: a flood and its receiver, a stream of tokens, and the search for a rate."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from lab import CHECKOUT
from lab.bench.flood import Batch, receive
from lab.bench.metrics import METRICS, shaped_name
from lab.bench.tokens import figures
from lab.bench.udp import highest_rate
from tests.ports import free_port


def test_what_is_flooded_is_counted() -> None:
    port = free_port(socket.SOCK_DGRAM)
    program = [sys.executable, "-m", "lab.bench.flood"]
    with subprocess.Popen(
        [*program, "receive", str(port), "0", "0.2"], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        command = [*program, "send", "127.0.0.1", str(port), "64", "0.4", "2000"]
        sent = subprocess.run(command, check=True, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
        found = json.loads(receiver.stdout.read())
    assert found["seconds"] == 0.2
    assert 0 < found["packets"] <= found["sent"] < 1000
    assert 0 < json.loads(sent.stdout)["rate"] <= 2100


def test_a_receiver_that_hears_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.bench.flood.FIRST_TIMEOUT_S", 0.0)
    assert receive(free_port(socket.SOCK_DGRAM), 0, 0.1) == {"packets": 0, "sent": 0, "seconds": 0.1}


def test_wrong_usage_is_refused() -> None:
    for module in ("flood", "tokens", "bare", "iroh_stream"):
        done = subprocess.run(
            [sys.executable, "-m", f"lab.bench.{module}", "teleport"], capture_output=True, cwd=CHECKOUT
        )
        assert done.returncode == 1
        assert b"python -m lab.bench" in done.stderr


def test_each_message_of_a_batch_has_its_own_buffer() -> None:
    batch = Batch(64)
    batch.memory[64:68] = (7).to_bytes(4, "big")
    assert [batch.number(n) for n in range(3)] == [0, 7, 0]


def test_gaps_are_what_the_way_added() -> None:
    sent = [n * 0.025 for n in range(100)]
    steady = figures([(at, at + 0.010) for at in sent])
    assert steady["gap_p99_ms"] == pytest.approx(0, abs=1e-6)
    assert steady["late_p99_ms"] == pytest.approx(10)
    late = [(at, at + (0.110 if n % 10 == 5 else 0.010)) for n, at in enumerate(sent)]
    assert figures(late)["gap_p99_ms"] == pytest.approx(100)
    assert figures([(0.0, 1.0)]) == {"tokens": 1}


def test_the_search_ends_below_the_first_loss() -> None:
    def line(rate: float) -> tuple[float, float]:
        return min(rate, 5000.0), max(0.0, 1 - 5000 / rate)

    found = highest_rate(line, 0, 16_000, 10)
    assert 4_900 < found <= 5_050
    assert highest_rate(lambda rate: (rate, 0.5), 0, 16_000, 10) == 0


def test_metrics_are_unique_and_the_slow_link_has_its_own() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert shaped_name("cubic", "up", "used") in names
    assert shaped_name("bbr", "idle", "used") not in names
