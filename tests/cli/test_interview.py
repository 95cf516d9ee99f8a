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


def test_a_provider_is_asked_for_a_node_and_what_to_offer() -> None:
    person = Person("http://203.0.113.7:30003", "", "1,3")
    answers = person.run(Answers())
    assert answers.seed_rpc == ["http://203.0.113.7:30003"]
    assert person.searched == [["192.168.50.0/24", "10.0.0.0/8"]]
    assert (answers.role, answers.expose, answers.service) == ("provider", ["127.0.0.1:11434"], [])
    assert answers.provide == ["192.168.50.0/24"]
    assert person.told == [
        "found:",
        "  1  Ollama at 127.0.0.1:11434 (llama3), on this machine only",
        "  2  vLLM at 127.0.0.1:8000, port 8000/tcp here",
        "  3  all of the subnet 192.168.50.0/24 (eth0), with TGI at 192.168.50.9:3000",
        "  4  all of the subnet 10.0.0.0/8 (eth1), too large to search",
    ]
    where = "this machine,\nand in 192.168.50.0/24 (eth0),\nand in 10.0.0.0/8 (eth1)"
    assert where in person.asked[1], "it says what is searched before it is"
    assert max(len(line) for question in person.asked for line in f"{question} [x]".splitlines()) <= 80


def test_by_default_servers_are_offered_and_no_subnet() -> None:
    answers = Person("", "", "").run(Answers())
    assert (answers.expose, answers.service, answers.provide) == (["127.0.0.1:11434"], ["8000/tcp"], [])
    everything = Person("", "y", "all").run(Answers())
    assert everything.provide == ["192.168.50.0/24", "10.0.0.0/8"]
    nothing = Person("", "y", "none")
    assert not nothing.run(Answers()).offers
    assert interview.NOTHING in nothing.told


def test_nothing_is_searched_unless_told() -> None:
    person = Person("", "n")
    answers = person.run(Answers())
    assert person.searched == []
    assert (answers.role, answers.offers) == ("user", False)
    assert any("ask for an invitation" in text for text in person.told)


def test_where_nothing_is_found() -> None:
    said: list[str] = []
    replies = iter(("public", "y"))
    interview.interview(
        answers := Answers(),
        ask=lambda question, default: next(replies),
        say=lambda text: said.append(str(text)),
        networks=list,
        look=lambda prefixes: Found(),
    )
    assert not answers.offers
    assert said[0].startswith("No inference server and no subnet was found.")


def test_what_an_option_said_is_not_asked() -> None:
    person = Person("")
    answers = person.run(Answers(provide=["10.9.0.0/24"]))
    assert answers.role == "provider"
    assert person.asked == [interview.NODE]
    assert Person().run(Answers(role="user", seed_rpc=["http://n:1"])).role == "user"


def test_a_wrong_answer_is_asked_again_and_not_for_ever() -> None:
    person = Person("node", "", "y", "5", "1 2")
    assert person.run(Answers()).service == ["8000/tcp"]
    assert "is not a seed's address" in person.asked[1]
    with pytest.raises(UsageError, match="--seed-rpc"):
        Person("a", "b", "c").run(Answers())
    with pytest.raises(UsageError, match="--expose"):
        Person("", "y", "0", "x", "1,9").run(Answers())


def test_an_invitation_is_asked_for_first() -> None:
    assert interview.invitation(Person("").ask) is None
    assert interview.invitation(Person("no").ask) is None
    assert interview.invitation(Person("nc1-x").ask) == "nc1-x"
    assert interview.invitation(Person("yes", "nc1-x").ask) == "nc1-x"


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
    assert [address.network.prefixlen for address in config.address] == [24, 64]
    assert [e.port for e in config.provide.expose] == [11434]
    assert [s.ports for s in config.provide.services] == [(8000, 8000)]
    assert config.provide.subnets == ()


def test_in_a_terminal_it_asks(run: Run, config_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person = Person("", "", "n", "")
    monkeypatch.setattr(interview, "at_terminal", lambda: True)
    monkeypatch.setattr(interview, "ask_terminal", person.ask)
    result = run("init")
    assert result.status == 0, result.err
    assert len(person.asked) == 3
    assert load(config_path).provide.offers_something is False
    result = run("init")
    assert result.status == 2
    assert "exists already" in result.err
    assert len(person.asked) == 4, "who is invited may have a configuration"


def test_an_invitation_in_the_interview_is_joined(
    run: Run, config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interview, "at_terminal", lambda: True)
    monkeypatch.setattr(interview, "ask_terminal", Person("nc1-abc").ask)
    result = run("init")
    assert result.status == 2
    assert "the token is mistyped" in result.err
    assert not config_path.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--role", "boss"], "write user or provider"),
        (["--role", "provider", "--provide", "nonsense", "--scan"], "nonsense"),
    ],
)
def test_mistakes(run: Run, config_path: Path, arguments: list[str], says: str) -> None:
    result = run("init", *arguments)
    assert result.status == 2
    assert says in result.err
    assert not config_path.exists()
