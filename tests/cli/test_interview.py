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
FAR = Server("vLLM", "192.168.50.9", 8000)
FIRST = ("ollama", "http://127.0.0.1:11434")
SECOND = ("vllm", "http://127.0.0.1:8000")
THIRD = ("vllm-2", "http://192.168.50.9:8000")


def offered(answers: Answers) -> list[tuple[str, str]]:
    return [(server.name, server.url) for server in answers.server]


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
    person = Person("http://203.0.113.7:30003", "", "1,4")
    answers = person.run(Answers())
    assert answers.seed_rpc == ["http://203.0.113.7:30003"]
    assert person.searched == [["192.168.50.0/24", "10.0.0.0/8"]]
    assert (answers.role, offered(answers), answers.expose) == ("provider", [FIRST], [])
    assert answers.service == []
    assert answers.provide == ["192.168.50.0/24"]
    assert person.told == [
        "found:",
        "  1  Ollama at 127.0.0.1:11434 (llama3), as ollama",
        "  2  vLLM at 127.0.0.1:8000, as vllm",
        "  3  vLLM at 192.168.50.9:8000, as vllm-2",
        "  4  all of the subnet 192.168.50.0/24 (eth0)",
        "  5  all of the subnet 10.0.0.0/8 (eth1), too large to search",
    ]
    where = "this machine,\nand in 192.168.50.0/24 (eth0),\nand in 10.0.0.0/8 (eth1)"
    assert where in person.asked[1], "it says what is searched before it is"
    assert max(len(line) for question in person.asked for line in f"{question} [x]".splitlines()) <= 80


def test_by_default_servers_of_this_machine_are_offered_and_nothing_else() -> None:
    answers = Person("", "", "").run(Answers())
    assert (offered(answers), answers.provide) == ([FIRST, SECOND], [])
    assert (answers.expose, answers.service) == ([], [])
    everything = Person("", "y", "all").run(Answers())
    assert everything.provide == ["192.168.50.0/24", "10.0.0.0/8"]
    assert offered(everything) == [FIRST, SECOND, THIRD]
    nothing = Person("", "y", "none")
    assert not nothing.run(Answers()).offers
    assert interview.NOTHING in nothing.told


def test_a_server_in_a_subnet_brings_its_own_address_alone() -> None:
    answers = Person("", "y", "3").run(Answers())
    assert (offered(answers), answers.provide) == ([THIRD], ["192.168.50.9/32"])


def test_servers_that_listen_elsewhere() -> None:
    """On one address of this machine: the port is offered. On ::1: no peer can be led there."""
    found = Found(
        ((Server("TGI", "192.168.50.1", 3000), False), (Server("Ollama", "::1", 11434), True)),
        (Server("an OpenAI-compatible server", "fd50::10", 8080),),
    )
    answers = Answers()
    said: list[object] = []
    interview.add_found(answers, found, said.append)
    assert (answers.service, answers.expose) == (["3000/tcp"], [])
    assert offered(answers) == [("server", "http://[fd50::10]:8080")]
    assert answers.provide == ["fd50::10/128"]
    assert said[-1] == (
        "Ollama at [::1]:11434 listens on ::1 alone, where no peer can reach it: let it listen on 127.0.0.1"
    )


def test_more_servers_than_peers_take_are_not_offered() -> None:
    found = Found(there=tuple(Server("TGI", f"10.1.0.{n}", 3000) for n in range(1, 80)))
    names = [choice.server.name for choice in interview.server_choices(found) if choice.server]
    assert (names[0], names[1], len(names), len(set(names))) == ("tgi", "tgi-2", 64, 64)


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
    person = Person("node", "", "y", "6", "2")
    assert offered(person.run(Answers())) == [SECOND]
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
    assert run("init", "--role", "provider", "--provide", "192.168.50.0/24", "--scan").status == 0
    config = load(config_path)
    assert [address.network.prefixlen for address in config.address] == [24, 64]
    assert [(s.name, s.url) for s in config.provide.servers] == [FIRST, SECOND, THIRD]
    assert [str(s.seen) for s in config.provide.subnets] == ["192.168.50.0/24"]
    assert (config.provide.expose, config.provide.services) == ((), ())
    # The file can be changed as any other.
    assert run("provide", "server", "remove", "vllm", "--yes").status == 0
    assert run("provide", "server", "add", "vllm", SECOND[1]).status == 0
    assert run("provide", "add", "--service", "22/tcp").status == 0


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
