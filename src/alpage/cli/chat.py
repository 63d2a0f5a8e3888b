"""`alpage chat`: talk to a model in the terminal."""

import sys

import typer

from alpage.catalogue.entries import DEFAULT_MODEL
from alpage.cli import options
from alpage.cli.conversation import Conversation
from alpage.cli.loading import load, ready, title
from alpage.cli.output import say
from alpage.cli.reading import Reader
from alpage.cli.session import Session
from alpage.core.paths import cache_home
from alpage.core.settings import Settings


def command(
    model: options.Model = DEFAULT_MODEL,
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
    context: options.Context = None,
    context_policy: options.Policy = "stop",
    threads: options.Threads = None,
    engine: options.Engine = "native",
    kv_type: options.KvType = "bf16",
    draft: options.Draft = None,
) -> None:
    """Talk to a model in the terminal; /help there tells what it understands.

    Without a terminal each line of standard input is answered in turn.
    """
    sampling = options.sampling(
        context_policy, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        min_p=min_p, repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, seed=seed,
    )  # fmt: skip
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    path = ready(model)
    with load(
        path, engine=engine, threads=threads, context=context, kv_type=kv_type, draft=draft
    ) as llm:
        if interactive:
            say(
                f"{title(model, llm)}, {llm.model.quantization}, {llm.context:,} tokens of context"
                "\n/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves\n"
            )
        history = cache_home(Settings.from_environment()) / "chat_history"
        reader = Reader(interactive=interactive, history=history)
        session = Session(
            llm, Conversation(system), reader, interactive=interactive, stop=stop or [],
            sampling=sampling,
        )  # fmt: skip
        try:
            session.run()
        finally:
            reader.close()
    if session.failed and not interactive:
        raise typer.Exit(1)
