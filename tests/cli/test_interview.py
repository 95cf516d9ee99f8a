from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nconnect.cli import interview
from nconnect.cli.interview import Answers, Found
from nconnect.doctor.inference import Server
from nconnect.errors import UsageError
from nconnect.io.files.config_file import load
from tests.cli.conftest import Run

OLLAMA = Server("Ollama", "127.0.0.1", 11434, ("llama3",))
VLLM = Server("vLLM", "127.0.0.1", 8000)
FAR = Server("TGI", "192.168.50.9", 3000)


class Person:
    """Answers in turn, and notes what was asked and said; an empty answer takes the default."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.told: list[str] = []
        self.searched: list[list[str]] = []

    def ask(self, question: str, default: str) -> str:
        self.asked.append(question)
        return self._answers.pop(0) or default

    def look(self, prefixes: Sequence[str]) -> Found:
        self.searched.append(list(prefixes))
        return Found(((OLLAMA, True), (VLLM, False)), (FAR,), ("10.0.0.0/8",))

    def run(self, answers: Answers) -> Answers:
        networks = [("192.168.50.0/24", "eth0"), ("10.0.0.0/8", "eth1")]
        interview.interview(
            answers, ask=self.ask, say=self.told.append, networks=lambda: networks, look=self.look
        )
        assert not self._answers, "less was asked than answered"
        return answers


def test_a_user_is_asked_two_things() -> None:
    person = Person("", "")
    answers = person.run(Answers())
    assert (answers.role, answers.address, answers.offers) == ("user", ["10.86.0.2/24"], False)
    assert person.searched == []


def test_a_provider_chooses_networks_and_servers() -> None:
    person = Person("p", "10.99.0.1/24", "y", "n", "y", "y", "n")
    answers = person.run(Answers())
    assert answers.address == ["10.99.0.1/24"]
    assert answers.provide == ["192.168.50.0/24"]
    assert person.searched == [["192.168.50.0/24"]]
    assert (answers.expose, answers.service) == (["127.0.0.1:11434"], [])
    assert "found Ollama at 127.0.0.1:11434 (llama3), on loopback only" in person.told
    assert any("TGI at 192.168.50.9:3000" in text for text in person.told)
    assert any("10.0.0.0/8 has too many" in text for text in person.told)


def test_nothing_is_searched_unless_told() -> None:
    person = Person("provider", "", "y", "y", "")
    person.run(Answers())
    assert person.searched == []


def test_what_an_option_said_is_not_asked() -> None:
    person = Person("")
    answers = person.run(Answers(provide=["10.9.0.0/24"]))
    assert answers.role == "provider"
    assert person.asked == ["this device's address in the tunnel?"]


def test_a_wrong_answer_is_asked_again_and_not_for_ever() -> None:
    person = Person("what", "u", "10.86.0.300", "")
    assert person.run(Answers()).address == ["10.86.0.2/24"]
    with pytest.raises(UsageError, match="--role"):
        Person("x", "y", "z").run(Answers())
    with pytest.raises(UsageError, match="--address"):
        Person("a", "b", "c").run(Answers(role="user"))


@pytest.mark.parametrize("name", ["lo", "docker0", "br-1234", "veth12", "nc0", "wg0", "tun0", "virbr0"])
def test_container_networks_are_not_proposed(name: str) -> None:
    assert not interview.is_own_network(name)
    assert interview.is_own_network("eth0")
    assert interview.is_own_network("wlp3s0")


def test_local_networks_can_be_read() -> None:
    for prefix, name in interview.local_networks():
        assert "/" in prefix
        assert name != "lo"


def test_without_a_terminal_options_say_it_all(
    run: Run, config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interview, "search", Person().look)
    assert run("init", "--role", "provider", "--scan").status == 0
    config = load(config_path)
    assert str(config.address[0]) == "10.86.0.1/24"
    assert [e.port for e in config.provide.expose] == [11434]
    assert [s.ports for s in config.provide.services] == [(8000, 8000)]


def test_in_a_terminal_it_asks(run: Run, config_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person = Person("user", "10.86.0.7/24")
    monkeypatch.setattr(interview, "at_terminal", lambda: True)
    monkeypatch.setattr(interview, "ask_terminal", person.ask)
    assert run("init").status == 0
    assert str(load(config_path).address[0]) == "10.86.0.7/24"
    assert run("init").status == 2  # it exists: said before anything is asked


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--role", "boss"], "write user or provider"),
        (["--role", "provider", "--provide", "nonsense", "--scan"], "nonsense"),
        ([], "this device's address in the tunnel is missing"),
    ],
)
def test_mistakes(run: Run, config_path: Path, arguments: list[str], says: str) -> None:
    result = run("init", *arguments)
    assert result.status == 2
    assert says in result.err
    assert not config_path.exists()
