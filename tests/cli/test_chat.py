"""The chat, in a real terminal and in a pipe."""

import json
import re
import stat
from pathlib import Path

import pytest
from tests.cli.conftest import Alpage
from tests.cli.speaker import write_speaker
from tests.cli.terminal import CTRL_C, CTRL_D, UP, Terminal, terminal

# The prompt that the model sees decides its first letter only; "\n" ends every chat prompt.
ECHO = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}|{% endfor %}\n"


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that does not stop talking; what it says would also clear the screen."""
    path = tmp_path_factory.mktemp("endless") / "endless.gguf"
    return write_speaker(path, b"ab\x1b[2J\x07\r\x00", endless=True, template=ECHO)


def start(shell: Terminal) -> None:
    shell.wait("Ctrl-D leaves")


def test_a_conversation(parrot: Path, home: Path, tmp_path: Path) -> None:
    kept = tmp_path / "talk.json"
    with terminal("chat", parrot, home=home) as shell:
        assert "Speaker, F32, 1,024 tokens of context" in shell.wait("\r\n")
        start(shell)
        shell.say("Hello there")
        shell.wait("Hi.\r\n")
        shell.say("/system Be brief.")
        shell.wait("system prompt: Be brief.")
        shell.say('"""')
        shell.wait(". ")
        shell.type("two\r")
        shell.wait(". ")
        shell.type('lines"""\r')
        shell.wait("Hi.\r\n")
        shell.say("one \\")
        shell.wait(". ")
        shell.type("more\r")
        shell.wait("Hi.\r\n")
        shell.say("/stats")
        assert "of 1,024 tokens used" in shell.wait("left")
        shell.say(f"/save {kept}")
        shell.wait("saved 7 messages")
        shell.say("/clear")
        shell.wait("starts anew")
        shell.say(f"/load {kept}")
        shell.wait("loaded 7 messages")
        shell.say("/help")
        shell.wait("/exit")
        shell.say("/bye")
        assert shell.exit_code() == 0
    said = json.loads(kept.read_text())["messages"]
    assert [m["content"] for m in said] == [
        "Be brief.", "Hello there", "Hi.", "two\nlines", "Hi.", "one \nmore", "Hi.",
    ]  # fmt: skip
    assert [m["role"] for m in said] == ["system", *["user", "assistant"] * 3]


def test_ctrl_c_stops_the_answer_and_not_the_program(endless: Path, home: Path) -> None:
    with terminal("chat", endless, "--context-policy", "shift", home=home) as shell:
        start(shell)
        for _ in range(2):
            shell.say("Talk")
            shell.wait("[2Jab[2Jab")
            shell.type(CTRL_C)
            shell.wait("(stopped)")
        shell.say("/stats")
        shell.wait("tokens used")
        shell.say("/exit")
        assert shell.exit_code() == 0
    assert "Traceback" not in shell.text
    sent = shell.text.replace("\x1b[?2004h", "").replace("\x1b[?2004l\r", "")  # by readline
    assert not re.search(r"[\x00\x07\x1b]", sent), "the model has reached the terminal"


def test_ctrl_c_at_the_prompt(parrot: Path, home: Path) -> None:
    with terminal("chat", parrot, home=home) as shell:
        start(shell)
        shell.wait("> ")
        shell.type("half a line")
        shell.interrupt()
        shell.wait("Ctrl-C again or Ctrl-D leaves")
        shell.say("Hello")
        shell.wait("Hi.")
        shell.wait("> ")
        shell.interrupt()
        shell.wait("Ctrl-C again or Ctrl-D leaves")
        shell.wait("> ")
        shell.interrupt()
        assert shell.exit_code() == 0
    assert "Traceback" not in shell.text


def test_ctrl_d_leaves_and_history_stays(parrot: Path, home: Path) -> None:
    pytest.importorskip("readline")
    for times in range(2):
        with terminal("chat", parrot, home=home) as shell:
            start(shell)
            shell.wait("> ")
            shell.type("Remember me\r" if times == 0 else f"{UP}\r")
            assert "Remember me" in shell.wait("Hi.")
            shell.wait("> ")
            shell.type(CTRL_D)
            assert shell.exit_code() == 0
    history = home / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "Remember me" in history.read_text().splitlines()


def test_a_dumb_terminal(parrot: Path, home: Path) -> None:
    with terminal("chat", parrot, home=home, kind="dumb") as shell:
        start(shell)
        shell.say("Hello")
        shell.wait("Hi.")
        shell.wait("> ")
        shell.type(CTRL_D)
        assert shell.exit_code() == 0
    assert "\x1b" not in shell.text


def test_mistakes_do_not_end_it(parrot: Path, home: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "thesis.txt"
    foreign.write_text("years of work")
    with terminal("chat", parrot, home=home) as shell:
        start(shell)
        for line, answer in {
            "/nope": "unknown command /nope; /help lists them",
            "/load": "/load needs the name of a file",
            "/load none.json": "there is no file none.json",
            f"/load {foreign}": "is not JSON",
            f"/save {foreign}": "exists and is no conversation of Alpage's",
            "/save /proc/none/x.json": "alpage: cannot write /proc/none/x.json",
            " /nope": "Hi.",
            "/stats": "answer",
        }.items():
            shell.say(line)
            shell.wait(answer)
        shell.say("/exit")
        assert shell.exit_code() == 0
    assert foreign.read_text() == "years of work"


def test_a_full_context_is_explained(endless: Path, alpage: Alpage) -> None:
    done = alpage("chat", endless, "--context", "64", stdin="Talk\nAgain\n/clear\nAgain\n")
    first, again = done.stderr.splitlines()[:2]
    assert "the context of 64 tokens is full, so the answer ends here: /clear" in first
    assert "does not fit into the context of 64 any more: /clear starts anew" in again
    assert "--context-policy shift" in first and "--context-policy shift" in again
    assert done.stderr.count("is full") == 2
    assert done.returncode == 1, "one message was not answered"


def test_shift_leaves_the_oldest_turns_out(parrot: Path, alpage: Alpage) -> None:
    options = ("--context", "160", "--context-policy", "shift", "--system", "Short.")
    done = alpage("chat", parrot, *options, stdin="x" * 20 + "\n" + "Hello again\n" * 5)
    assert (done.returncode, done.stdout) == (0, "Hi.\n" * 6)
    assert done.stderr.count("left out") == 1


def test_a_message_too_long_for_any_context(parrot: Path, alpage: Alpage) -> None:
    for policy in ("stop", "shift"):
        options = ("--context", "64", "--context-policy", policy)
        done = alpage("chat", parrot, *options, stdin="x" * 100 + "\nHello\n")
        assert "but the context holds 64" in done.stderr
        assert (done.returncode, done.stdout) == (1, "Hi.\n"), "the next one is answered"


def test_without_a_terminal(parrot: Path, alpage: Alpage) -> None:
    """Answers alone on standard output: no prompts, no greeting."""
    done = alpage("chat", parrot, stdin='Hello\n\n"""\nA\nB\n"""\nC \\\nD')
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hi.\n" * 3, "")
    assert alpage("chat", parrot).stdout == ""
    bad = alpage("chat", parrot, stdin=b"caf\xe9\nHello\n")
    assert (bad.returncode, bad.stdout) == (1, "Hi.\n")
    assert "alpage: this line is not UTF-8 text" in bad.stderr
    unknown = alpage("chat", parrot, stdin="/nope\n")
    assert (unknown.returncode, unknown.stdout) == (1, "")


def test_the_same_answers_as_the_python_interface(alpage: Alpage, smollm2_path: Path) -> None:
    """The conversation that the model sees: with its history and the system prompt."""
    from alpage import Llama

    options = ("--temperature", "0", "--max-tokens", "12", "--context", "1024")
    done = alpage("chat", smollm2_path, "--system", "Be kind.", *options, stdin="Hello\nWhy?\n")
    messages = [{"role": "system", "content": "Be kind."}]
    answers = []
    with Llama.load(smollm2_path, context=1024) as llm:
        for text in ("Hello", "Why?"):
            messages.append({"role": "user", "content": text})
            answer = llm.chat(messages, temperature=0, max_tokens=12)
            messages.append(answer.message)
            answers.append(answer.text + "\n")
    assert done.stdout == "".join(answers)
    assert re.search(r"\w{3}", done.stdout)
