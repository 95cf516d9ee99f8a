from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nconnect.control import exposition as ex
from nconnect.control.exposition import PeerHistograms, escape, exposition
from nconnect.control.schema import DirectStatus, LinkStatus, PeerStatus
from tests.control.fake import STATUS

LINE = re.compile(r'([a-z_]+)(\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (-?[0-9.e+-]+)')


def lines_of(text: str) -> list[str]:
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def test_every_line_is_well_formed_and_has_its_head() -> None:
    histograms = {"laptop": PeerHistograms()}
    histograms["laptop"].round_trip.observe(0.003)
    text = exposition(replace(STATUS, counters={"batches sent": 3}), histograms)
    assert text.endswith("\n")
    heads = re.findall(r"^# TYPE (\S+) (counter|gauge|histogram)$", text, re.M)
    assert len(heads) == len({name for name, _ in heads})
    kinds = dict(heads)
    seen = set()
    for line in lines_of(text):
        found = LINE.fullmatch(line)
        assert found, line
        assert 'interface="nc0"' in found[3]
        name = re.sub(r"_(bucket|sum|count)$", "", found[1])
        name = name if kinds.get(name) == "histogram" else found[1]
        assert name in kinds, line
        assert (kinds[name] == "counter") == name.endswith("_total")
        assert line.rpartition(" ")[0] not in seen
        seen.add(line.rpartition(" ")[0])


def test_values() -> None:
    text = exposition(STATUS, {})
    assert 'nconnect_peer_receive_bytes_total{interface="nc0",peer="laptop"} 1536\n' in text
    assert 'nconnect_peer_last_round_trip_seconds{interface="nc0",peer="laptop"} 0.0123' in text
    assert 'nconnect_peer_drops_total{interface="nc0",peer="laptop",reason="spoofed_source"} 3\n' in text
    assert 'nconnect_drops_total{interface="nc0",reason="unknown_peer"} 2\n' in text
    assert 'nconnect_link_up{interface="nc0",link="0",node="203.0.113.7:30002"} 1\n' in text
    assert 'nconnect_peer_state{interface="nc0",peer="phone",state="never"} 1\n' in text
    assert "expiry_time" in text
    assert 'expiry_time_seconds{interface="nc0",peer="phone"}' not in text  # it never ends


def test_the_direct_path_has_a_state_and_what_is_known_of_it() -> None:
    (laptop, phone) = STATUS.peers
    direct = DirectStatus("up", "udp", None, "203.0.113.9:41000", 12.5, 1452)
    text = exposition(
        dataclasses.replace(STATUS, peers=(dataclasses.replace(laptop, direct=direct), phone)), {}
    )
    of = 'interface="nc0",peer="laptop"'
    assert f'nconnect_peer_direct_state{{{of},state="up"}} 1\n' in text
    assert f'nconnect_peer_direct_state{{{of},state="failed"}} 0\n' in text
    assert f"nconnect_peer_direct_round_trip_seconds{{{of}}} 0.0125\n" in text
    assert f"nconnect_peer_direct_mtu_bytes{{{of}}} 1452\n" in text
    assert 'direct_mtu_bytes{interface="nc0",peer="phone"}' not in text
    assert "203.0.113.9" not in text


def test_histograms_are_cumulative() -> None:
    kept = PeerHistograms()
    for value in (0.003, 0.003, 99.0):
        kept.queue_delay.observe(value)
    text = exposition(STATUS, {"laptop": kept, "gone": PeerHistograms()})
    start = 'nconnect_peer_queue_delay_seconds_bucket{interface="nc0",peer="laptop",le='
    assert f'{start}"0.0025"}} 0\n' in text
    assert f'{start}"0.005"}} 2\n' in text
    assert f'{start}"+Inf"}} 3\n' in text
    assert 'queue_delay_seconds_count{interface="nc0",peer="laptop"} 3\n' in text
    assert "gone" not in text


def test_every_number_of_status_is_a_metric() -> None:
    for cls, metrics in (
        (LinkStatus, ex.LINK_METRICS),
        (PeerStatus, ex.PEER_METRICS),
        (DirectStatus, ex.DIRECT_METRICS),
    ):
        numbers = {f.name for f in dataclasses.fields(cls) if re.search(r"\b(int|float)\b", str(f.type))}
        assert numbers - {"drops", "port"} <= set(metrics), "give the new field a metric"


@given(st.text())
def test_a_label_stays_on_its_line(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert re.fullmatch(r'(?:[^"\\\n]|\\[\\"n])*', escaped)
    assert (
        escaped.replace(r"\\", "\0").replace(r"\n", "\n").replace(r"\"", '"').replace("\0", "\\") == text
        or "\0" in text
    )
