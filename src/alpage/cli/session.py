"""A chat at work: messages in, answers out, and the commands that begin with a slash."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from alpage.cli.conversation import Conversation, read_conversation
from alpage.cli.output import note, printable, say
from alpage.cli.reading import Reader
from alpage.cli.stats import Stats, Stopwatch
from alpage.core.errors import AlpageError, InputError, UsageError
from alpage.core.types import FinishReason

if TYPE_CHECKING:  # help and errors of usage need no engine
    from alpage.llama import Llama, SamplingOptions, TextRequest, TextStream

_HELP = '''\
/system [TEXT]  show the system prompt, or set it ("/system -" removes it)
/save FILE      write the conversation to a file
/load FILE      go on with a conversation from a file
/stats          tokens and times of the last answer, and the room that is left
/clear          forget what was said; the system prompt stays
/exit           leave (so do /bye and Ctrl-D)

Three quotes (""") begin and end a message of several lines; a backslash at the end of a line goes
on in the next one. Ctrl-C stops an answer. A space before a slash sends the line as a message.'''


class Session:
    """One chat from its first line to its last."""

    def __init__(
        self,
        llm: "Llama",
        conversation: Conversation,
        reader: Reader,
        *,
        interactive: bool,
        stop: Sequence[str],
        sampling: "SamplingOptions",
    ) -> None:
        self.failed = False
        self._llm = llm
        self._conversation = conversation
        self._reader = reader
        self._interactive = interactive
        self._stop = stop
        self._sampling = sampling
        self._left_out = 0
        self._last: Stats | None = None
        self._open = True
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: say(_HELP),
            "/system": self._system,
            "/save": self._save,
            "/load": self._load,
            "/stats": lambda _: self._stats(),
            "/clear": lambda _: self._clear(),
            "/exit": lambda _: self._leave(),
            "/bye": lambda _: self._leave(),
        }

    def run(self) -> None:
        """Read and answer until the input ends or the person leaves."""
        hinted = False
        while self._open:
            try:
                text = self._reader.read()
                hinted = False
                self._take(text)
            except EOFError:
                if self._interactive:
                    say("")
                return
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                say("")
                if hinted:
                    return
                say("Ctrl-C again or Ctrl-D leaves, /help lists the commands")
                hinted = True
            except AlpageError as error:
                self.failed = True
                note(f"alpage: {error}")

    def _take(self, text: str) -> None:
        if text.startswith("/"):
            name, _, rest = text.partition(" ")
            if name not in self._commands:
                raise UsageError(
                    f"unknown command {name:.40}; /help lists them, and a space before the slash "
                    "sends the line as a message"
                )
            self._commands[name](rest.strip())
        elif text.strip():
            self._answer(text)

    def _answer(self, text: str) -> None:
        """Answer `text`, and remember both if there was an answer."""
        turns = self._conversation.turns
        turns.append({"role": "user", "content": text})
        said: list[str] = []
        try:
            stream = self._llm.stream(self._request())
            reason = self._show(stream, said)
        finally:
            answer = "".join(said)
            if answer:
                turns.append({"role": "assistant", "content": answer})
            else:
                turns.pop()
        self._explain(reason)

    def _show(self, stream: "TextStream", said: list[str]) -> FinishReason:
        """Write the answer as it comes, and to `said`; Ctrl-C stops it."""
        reason: FinishReason = "cancelled"
        watch = Stopwatch()
        last = ""
        with contextlib.ExitStack() as stack:
            if self._interactive:
                stack.enter_context(_stopped_by_interrupt(stream))
            for piece in stream:
                if piece.tokens:
                    watch.token()
                if piece.text:
                    said.append(piece.text)
                    last = printable(piece.text) or last
                    say(piece.text, end="")
                if piece.finish_reason is not None and piece.usage is not None:
                    reason = piece.finish_reason
                    self._last = Stats(piece.usage, watch.first_token)
        if not last.endswith("\n"):
            say("")
        return reason

    def _request(self) -> "TextRequest":
        """The conversation as a request, with what does not fit left out if that is wanted."""
        turns = self._conversation.turns
        shift = self._sampling.get("context_policy") == "shift"
        # An answer needs room too: a quarter of the context.
        room = self._llm.context * 3 // 4 if shift else self._llm.context
        before = self._left_out
        while True:
            messages = self._conversation.messages(self._left_out)
            request = self._llm.chat_request(messages, stop=self._stop, **self._sampling)
            size = len(request.prompt)
            if size <= room:
                break
            if not shift and len(turns) > 1:
                raise InputError(
                    f"the conversation has {size:,} tokens and does not fit into the context of "
                    f"{self._llm.context:,} any more: /clear starts anew (/save FILE keeps it), "
                    "and alpage chat --context-policy shift leaves the oldest turns out"
                )
            if not shift or self._left_out >= len(turns) - 1:
                break  # one message alone: the engine says what is wrong with it
            self._left_out = min(self._left_out + 2, len(turns) - 1)
        if before == 0 and self._left_out:
            note("(the oldest turns do not fit into the context any more and are left out)")
        return request

    def _explain(self, reason: FinishReason) -> None:
        if reason == "context":
            note(
                f"(the context of {self._llm.context:,} tokens is full, so the answer ends here: "
                "/clear starts anew; alpage chat --context-policy shift goes on)"
            )
        elif self._interactive and reason == "cancelled":
            note("(stopped)")
        elif self._interactive and reason == "length":
            note(f"(cut after {self._sampling.get('max_tokens')} tokens, as --max-tokens says)")
        if self._interactive:
            say("")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = None if text == "-" else text
        now = self._conversation.system
        say("there is no system prompt" if now is None else f"system prompt: {now}")

    def _save(self, name: str) -> None:
        path = _path(name, "/save")
        self._conversation.save(path)
        say(f"saved {_count(self._conversation)} to {path}")

    def _load(self, name: str) -> None:
        path = _path(name, "/load")
        self._conversation = read_conversation(path)
        self._left_out = 0
        self._last = None
        say(f"loaded {_count(self._conversation)} from {path}")

    def _stats(self) -> None:
        if self._last is None:
            say("no answer yet")
            return
        used = self._last.usage.total_tokens
        left = max(0, self._llm.context - used)
        say("\n".join(self._last.lines()))
        say(f"context      {used:,} of {self._llm.context:,} tokens used, {left:,} left")

    def _clear(self) -> None:
        self._conversation.turns.clear()
        self._left_out = 0
        self._last = None
        say("the conversation starts anew")

    def _leave(self) -> None:
        self._open = False


def _path(name: str, verb: str) -> Path:
    if not name:
        raise UsageError(f"{verb} needs the name of a file: {verb} talk.json")
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~stranger: no such user
        return Path(name)


def _count(conversation: Conversation) -> str:
    count = len(conversation.messages())
    return f"{count} message{'' if count == 1 else 's'}"


@contextlib.contextmanager
def _stopped_by_interrupt(stream: "TextStream") -> Iterator[None]:
    """Meanwhile Ctrl-C ends the answer alone; a second one does not wait for the step's end."""

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        stream.cancel()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
