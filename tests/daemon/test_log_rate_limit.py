from __future__ import annotations

from nconnect.daemon.event_log import FIRST_S, LONGEST_S, MAX_TEXTS, LogRateLimit


def said(again: LogRateLimit, seconds: int, *texts: str) -> list[int]:
    """A try each second, with one reason after another: when it was worth a line."""
    return [now for now in range(seconds) if again.is_news(texts[now % len(texts)], float(now))]


def test_the_first_failure_is_said_and_then_ever_fewer() -> None:
    first, night = int(FIRST_S), 12 * 3600
    lines = said(LogRateLimit(), night, "connection refused")
    assert lines[:4] == [0, first, 3 * first, 7 * first]
    assert max(b - a for a, b in zip(lines[-10:], lines[-9:], strict=False)) == LONGEST_S
    assert len(lines) < 60


def test_another_reason_is_said_at_once_but_one_that_was_said_is_no_news() -> None:
    assert said(LogRateLimit(), int(FIRST_S), "no answer", "connection refused") == [0, 1]


def test_texts_that_are_made_up_fill_no_log() -> None:
    again = LogRateLimit()
    assert sum(again.is_news(f"reason {n}", 0.001 * n) for n in range(10_000)) == MAX_TEXTS


def test_after_its_end_the_next_is_news() -> None:
    again = LogRateLimit()
    assert again.is_news("refused", 0.0)
    assert not again.is_news("refused", 1.0)
    again.end()
    assert again.is_news("refused", 2.0)
    assert not again.is_news("refused", 2.0 + FIRST_S - 1)
    assert again.is_news("refused", 2.0 + FIRST_S), "the intervals begin anew"
