"""The body of POST /v1/completions."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from alpage.server.backends.protocol import ServedModel
from alpage.server.errors import RequestError
from alpage.server.openai.fields import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    Prompts,
    Refused,
    SharedFields,
    each_prompt,
)
from alpage.server.queries import TextQuery


class CompletionRequest(SharedFields):
    """The whole body. `max_tokens` 0 with `echo` scores the prompt and adds nothing."""

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: int | None = None
    # Fields of OpenAI's that are not supported.
    suffix: Refused = None

    def check(self) -> None:
        """What no single field can tell; a RequestError."""
        super().check()
        self.check_form()
        if self.best_of is not None and self.best_of < self.choices:
            raise RequestError(
                f"best_of is {self.best_of}: it must be at least n, {self.choices}",
                param="best_of",
            )
        if self.samples > self.choices and self.stream:
            raise RequestError(
                "with best_of above n nothing is known until the end: it cannot be streamed",
                param="best_of",
            )
        if not self.prompt:
            raise RequestError("the prompt is empty; give at least one token", param="prompt")
        if self.samples > 1 and self.samples * len(self.prompts) > MAX_CHOICES:
            name = "n" if self.best_of is None else "best_of"
            raise RequestError(
                f"{len(self.prompts)} prompts with {name}={self.samples} make "
                f"{self.samples * len(self.prompts)} answers; at most {MAX_CHOICES} are made "
                f"where {name} is more than 1",
                param=name,
            )
        if self.max_tokens == 0 and not self.echo:
            raise RequestError(
                "max_tokens is 0: that works with echo=true only", param="max_tokens"
            )

    @property
    def samples(self) -> int:
        """Answers made for each prompt; the `choices` most likely of them are given."""
        return self.best_of or self.choices

    @property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """Each of them text or ids."""
        return each_prompt(self.prompt)

    def query(self) -> TextQuery:
        """What is asked of the model."""
        options = self.options()
        options["max_tokens"] = self.max_tokens or None
        options["top_logprobs"] = self.logprobs
        if self.samples > self.choices and self.logprobs is None:
            options["top_logprobs"] = 0  # to tell which are the best
        return TextQuery(
            prompts=self.prompts,
            score_prompts=bool(self.echo) and self.logprobs is not None,
            answer=self.max_tokens != 0,
            options=options,
            stop=self.stops,
            choices=self.samples,
        )

    def echoed(self, model: ServedModel) -> list[str]:
        """What each sample's text begins with: its prompt, with `echo`."""
        if not self.echo:
            return [""] * (len(self.prompts) * self.samples)
        texts = [p if isinstance(p, str) else model.text_of(list(p)) for p in self.prompts]
        return [text for text in texts for _ in range(self.samples)]
