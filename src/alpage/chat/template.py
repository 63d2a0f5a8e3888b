"""A model's chat template: messages in, prompt text in trusted and untrusted segments out."""

import re
import warnings
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

from jinja2 import TemplateSyntaxError

from alpage.chat.budget import Budget, Refused
from alpage.chat.fallback import describe_tools, write_calls
from alpage.chat.marked import Marked, Segment, segments
from alpage.chat.messages import plain_data, prepare_messages, prepare_tools
from alpage.chat.sandbox import GuardedEnvironment, Instrument, compiles_to_few_levels
from alpage.core.errors import InputError, TemplateError

_MAX_SOURCE = 65_536
_MAX_TOKENS = (
    12_000  # compiling takes 2.5 kB for each; the largest of 70 models' templates has 2,464
)
_READS_PARTS = re.compile(r"""\[\s*['"]text['"]\s*\]|\.text\b""")


class ChatTemplate:
    """A compiled chat template in the dialect that Hugging Face and GGUF files use.

    `source` may come from a hostile file: it is compiled inside a sandbox, and each rendering is
    bounded in time, memory and output (`TemplateError`). `bos_token` and `eos_token` are the texts
    of the model's special tokens, for templates that write them.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        if not isinstance(source, str) or not source.strip():
            raise TemplateError("the model's chat template is empty")
        if len(source) > _MAX_SOURCE:
            raise TemplateError(
                f"the model's chat template has {len(source):,} characters; "
                f"at most {_MAX_SOURCE:,} are read"
            )
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.knows_tools = re.search(r"\btools\b", source) is not None
        self.knows_tool_calls = "tool_calls" in source
        self._reads_parts = _READS_PARTS.search(source) is not None
        self._literals: list[Marked] = []
        self._code = self._compile()

    def _compile(self) -> CodeType:
        environment = GuardedEnvironment(Budget(0), [])
        instrument = Instrument()
        try:
            self._count_tokens(environment)
            tree = environment.parse(self.source)
            if not compiles_to_few_levels(tree):
                raise Refused("its expressions or blocks nest too deep")
            with warnings.catch_warnings():  # Python comments on `1[0]` on the terminal
                warnings.simplefilter("ignore", SyntaxWarning)
                code = environment.compile(instrument.visit(tree), filename="<chat template>")
        except TemplateSyntaxError as error:
            cause = f"line {error.lineno}: {error.message}"
        except Refused as error:
            cause = str(error)
        except (RecursionError, MemoryError):  # the latter from Python's own parser
            cause = "its expressions or blocks nest too deep"
        except Exception as error:  # a hostile source may break the compiler anywhere
            cause = _cause(error)
        else:
            self._literals = instrument.literals
            return code
        raise TemplateError(f"the model's chat template cannot be read: {cause}")

    def _count_tokens(self, environment: GuardedEnvironment) -> None:
        """Refuse a source that would take much more memory to compile than it is long."""
        if len(self.source) <= _MAX_TOKENS:  # a token has a character at least
            return
        tokens = environment.lexer.tokeniter(self.source, None)
        count = sum(kind != "whitespace" for _, kind, _ in tokens)
        if count > _MAX_TOKENS:
            raise Refused(f"it has {count:,} tokens; at most {_MAX_TOKENS:,} are read")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> list[Segment]:
        """Render a conversation to segments; joined, their texts are the prompt.

        Only text of the template itself (its literals, `bos_token`, `eos_token` and role names)
        stands in `special` segments; message, tool and `extra` text never does, so it can never
        become a special token, not even together with template text beside it. Encode the segments
        together (word pieces may cross their borders), looking for special tokens inside `special`
        ones only. A template that knows no tools gets `tools` described in the system message and
        earlier calls as text.

        Raises `InputError` for messages that are not well formed or that the template refuses
        with `raise_exception`, `TemplateError` for everything else that goes wrong in a template.
        """
        conversation = prepare_messages(messages, parts=self._reads_parts)
        known_tools = prepare_tools(tools)
        if not self.knows_tool_calls:
            write_calls(conversation)
        if known_tools and not self.knows_tools:
            describe_tools(conversation, known_tools)
        values = {
            "bos_token": Marked.literal(self.bos_token),
            "eos_token": Marked.literal(self.eos_token),
            **{name: plain_data(value, name) for name, value in extra.items()},
            "messages": conversation,
            "tools": known_tools,
            "add_generation_prompt": add_generation_prompt,
        }
        return segments(self._run(values))

    def render_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """`render` as one string, for people to read; never encode it with special tokens on."""
        parts = self.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **extra
        )
        return "".join(part.text for part in parts)

    def _run(self, values: dict[str, Any]) -> str:
        budget = Budget(_size(values))
        try:
            environment = GuardedEnvironment(budget, self._literals)
            template = environment.template_class.from_code(
                environment, self._code, environment.globals
            )
            context = template.new_context(_admitted(budget, values))
            return environment.concat(template.root_render_func(context))
        except InputError:
            raise
        except Exception as error:  # whatever a hostile program raises is its own error
            raise TemplateError(f"the model's chat template failed: {_cause(error)}") from error


def _admitted(budget: Budget, value: Any) -> Any:
    """Copy data into containers that know their size, innermost first."""
    if isinstance(value, dict):
        return budget.admit({key: _admitted(budget, item) for key, item in value.items()})
    if isinstance(value, list):
        return budget.admit([_admitted(budget, item) for item in value])
    return value


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(8 + len(key) + _size(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(8 + _size(item) for item in value)
    return 8


def _cause(error: BaseException) -> str:
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    text = str(error).strip() or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
