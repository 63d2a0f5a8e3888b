"""`alpage run`: one prompt, one answer."""

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alpage.catalogue.entries import CATALOGUE, DEFAULT_MODEL
from alpage.catalogue.resolve import is_name
from alpage.cli import options
from alpage.cli.loading import load, load_code, ready, title
from alpage.cli.output import note, print_json, printable, say
from alpage.cli.stats import Stats, Stopwatch
from alpage.core.errors import InputError, UsageError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings

if TYPE_CHECKING:  # help and errors of usage need no engine
    from alpage.llama import AnswerOptions, Completion, Llama, TextRequest, TokenLogprob

_MAX_PROMPT_BYTES = 64 << 20


_First = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help=f"A name, a GGUF file or a model folder; {DEFAULT_MODEL} if you leave it out.",
    ),
]
_Second = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT", help="What to answer, in quotes; - reads it from standard input."
    ),
]
_Raw = Annotated[
    bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")
]
_Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object with answer, usage and times.")
]
_Stats = Annotated[bool, typer.Option("--stats", help="Tell tokens and times on standard error.")]
_Logprobs = Annotated[
    int | None,
    typer.Option(metavar="N", help="With --json: log-probabilities and the N likeliest."),
]


def command(
    first: _First = None,
    second: _Second = None,
    raw: _Raw = False,
    json: _Json = False,
    stats: _Stats = False,
    logprobs: _Logprobs = None,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    json_schema: options.JsonSchema = None,
    regex: options.Regex = None,
    grammar: options.GrammarFile = None,
    context: options.Context = None,
    context_policy: options.Policy = "stop",
    threads: options.Threads = None,
    engine: options.Engine = "native",
    kv_type: options.KvType = "bf16",
    draft: options.Draft = None,
) -> None:
    """Answer one prompt. Nothing but the answer goes to standard output."""
    if logprobs is not None and not json:
        raise UsageError("--logprobs needs --json")
    if raw and system is not None:
        raise UsageError("--raw uses no chat template, so --system has no place in it")
    sampling = options.sampling(
        context_policy, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        min_p=min_p, repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, seed=seed, top_logprobs=logprobs,
    )  # fmt: skip
    wanted: AnswerOptions = {**options.constraint(json_schema, regex, grammar), **sampling}
    model, prompt = model_and_prompt(first, second)
    path = ready(model)
    load_code()
    began = time.perf_counter()
    with load(
        path, engine=engine, threads=threads, context=context, kv_type=kv_type, draft=draft
    ) as llm:
        load_seconds = time.perf_counter() - began
        request = _request(llm, prompt, system, raw, stop or [], wanted)
        watch = Stopwatch()
        answer = _answer(llm, request, watch, show=not json)
        measured = Stats(answer.usage, watch.first_token, load_seconds)
        if json:
            print_json(_document(title(model, llm), answer, measured, seed))
        if answer.finish_reason == "context":
            note(f"alpage: the answer ends here because the context of {llm.context} tokens is "
                 "full; --context-policy shift goes on")  # fmt: skip
        if stats:
            note("\n".join(measured.lines()))


def model_and_prompt(first: str | None, second: str | None) -> tuple[str, str]:
    """What the arguments name, with the prompt read from standard input where it belongs there."""
    if first is not None and second is not None:
        model, prompt = first, second
    elif first is not None and not _names_a_model(first):
        model, prompt = DEFAULT_MODEL, first
    else:
        model, prompt = first or DEFAULT_MODEL, "-"
        if sys.stdin.isatty():
            raise UsageError(
                f'there is no prompt: alpage run {model} "...", or alpage chat {model} to talk'
            )
    prompt = _from_standard_input() if prompt == "-" else prompt
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise InputError("the prompt is not valid UTF-8 text") from None
    if not prompt.strip():
        raise InputError("the prompt is empty; give it some text to answer")
    return model, prompt


def _names_a_model(word: str) -> bool:
    """Whether a single argument is the model, and not the prompt."""
    if word in CATALOGUE or (word.endswith(".gguf") and not re.search(r"\s", word)):
        return True
    if is_name(word, cache_home(Settings.from_environment())):
        return True
    like_a_path = "/" in word or word.endswith(".gguf")
    return like_a_path and "\n" not in word and len(word) < 1000 and Path(word).exists()


def _from_standard_input() -> str:
    data = sys.stdin.buffer.read(_MAX_PROMPT_BYTES + 1)
    if len(data) > _MAX_PROMPT_BYTES:
        raise InputError(f"standard input is larger than {_MAX_PROMPT_BYTES >> 20} MB")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not UTF-8 text: byte 0x{data[error.start]:02x} at place "
            f"{error.start:,}"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def _request(
    llm: "Llama",
    prompt: str,
    system: str | None,
    raw: bool,
    stop: list[str],
    answer: "AnswerOptions",
) -> "TextRequest":
    if raw:
        return llm.completion_request(prompt, stop=stop, **answer)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return llm.chat_request(messages, stop=stop, **answer)


def _answer(llm: "Llama", request: "TextRequest", watch: Stopwatch, *, show: bool) -> "Completion":
    """Run to the end, showing the answer as it comes, up to its last newline."""
    stream = llm.stream(request)
    last = ""
    for piece in stream:
        if piece.tokens:
            watch.token()
        text = printable(piece.text)
        if show and text:
            say(text, end="")
            last = text
    if show and not last.endswith("\n"):
        say("")
    return stream.result()


def _document(model: str, answer: "Completion", stats: Stats, seed: int | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": model,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "stop": answer.stop,
        "seed": seed,
        **stats.numbers(),
    }
    if answer.logprobs is not None:
        document["logprobs"] = [
            {**_token(entry), "top": [_token(other) for other in entry.top]}
            for entry in answer.logprobs
        ]
    return document


def _token(entry: "TokenLogprob") -> dict[str, Any]:
    return {"id": entry.id, "text": entry.text, "logprob": entry.logprob}
