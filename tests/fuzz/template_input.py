"""Chat templates out of a grammar: what templates use, and what an attacker would try."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

NAMES = (
    "messages",
    "message",
    "m",
    "loop",
    "ns",
    "x",
    "y",
    "tools",
    "bos_token",
    "eos_token",
    "add_generation_prompt",
    "namespace",
    "range",
    "raise_exception",
    "strftime_now",
    "dict",
    "self",
    "caller",
    "varargs",
    "kwargs",
    "nothing",
    "lipsum",
    "cycler",
    "joiner",
    "f",
    "g",
)
ATTRIBUTES = (
    "role",
    "content",
    "tool_calls",
    "items",
    "keys",
    "values",
    "get",
    "x",
    "index",
    "first",
    "last",
    "previtem",
    "nextitem",
    "cycle",
    "changed",
    "upper",
    "split",
    "strip",
    "format",
    "replace",
    "join",
    "title",
    "name",
    "arguments",
    "__class__",
    "__mro__",
    "__subclasses__",
    "__globals__",
    "__init__",
    "__dict__",
    "__code__",
    "__self__",
    "__builtins__",
    "__import__",
    "gi_frame",
    "_context",
    "_func",
    "f_globals",
    "spans",
    "size",
    "depth",
    "environment",
    "eval_ctx",
    "mro",
    "format_map",
    "encode",
    "append",
    "pop",
    "update",
    "clear",
    "__html__",
    "count",
    "_TemplateReference__context",
)
FILTERS = (
    "abs",
    "attr('__class__')",
    "batch(2)",
    "capitalize",
    "center(9)",
    "count",
    "d('x')",
    "default('x', true)",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format('a')",
    "format(x, y)",
    "groupby('role')",
    "groupby('__class__')",
    "indent(2)",
    "indent(width=x)",
    "int",
    "items",
    "join(',')",
    "join(',', 'role')",
    "join(attribute='__class__')",
    "last",
    "length",
    "list",
    "lower",
    "map('upper')",
    "map(attribute='role')",
    "map(attribute='__class__')",
    "map(attribute='content.__class__')",
    "map('attr', '__class__')",
    "map('map', 'upper')",
    "map('format', x)",
    "max",
    "min",
    "pprint",
    "random",
    "reject('none')",
    "rejectattr('role')",
    "replace('a', 'b')",
    "replace('', x)",
    "reverse",
    "round",
    "round(2, 'floor')",
    "safe",
    "select('string')",
    "selectattr('role', 'eq', 'user')",
    "selectattr('__class__')",
    "slice(2)",
    "sort",
    "sort(attribute='role')",
    "sort(attribute='__init__.__globals__')",
    "string",
    "striptags",
    "sum",
    "sum(start=x)",
    "sum(attribute='x')",
    "title",
    "tojson",
    "tojson(indent=2)",
    "tojson(separators=(',', x))",
    "trim",
    "trim(x)",
    "truncate(5)",
    "unique",
    "unique(attribute='__class__')",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
)
TESTS = (
    "defined",
    "undefined",
    "none",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "number",
    "even",
    "divisibleby(3)",
    "divisibleby(0)",
    "in(x)",
    "eq(x)",
    "sameas(x)",
    "lower",
    "callable",
    "filter('attr')",
    "test('x')",
    "escaped",
    "true",
    "gt(1)",
)
TEXTS = (
    "''",
    "'a'",
    "'abc' * 3",
    "'%s'",
    "'%s %s %%'",
    "'%(a)s'",
    "'%99999d'",
    "'%c'",
    "'{}'",
    "'{0}'",
    "'{x}'",
    "'{0.__class__}'",
    "'{0[__class__]}'",
    "'{:>99999}'",
    "'{!r}'",
    "'{0!s:5}'",
    "'__class__'",
    "'__cla' ~ 'ss__'",
    "'<|im_end|>'",
    "'<|im_' ~ 'end|>'",
    "'\\n'",
    "'role'",
    "'x' * 999999",
    "'\u4e2d'",
)
NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "3.5",
    "1e308",
    "-0.0",
    "10 ** 9",
    "99999999999999999999",
    "true",
    "none",
)
BINARY = (
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "~",
    "==",
    "!=",
    "<",
    ">=",
    "and",
    "or",
    "in",
    "not in",
)
FORBIDDEN = (
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import path %}",
    "{% extends 'x' %}",
    "{% block b %}{% endblock %}",
    "{% do x.append(1) %}",
    "{% set x.y = 1 %}",
    "{% autoescape true %}{% endautoescape %}",
    "{% trans %}{% endtrans %}",
    "{% debug %}",
    "{% raw %}{{ x }}{% endraw %}",
    "{# a comment #}",
    "{{",
    "}}",
    "{%",
    "{% endfor %}",
    "{% for %}",
    "{% if %}",
    "{% endif %}",
    "\x00",
    "{% generation %}a{% endgeneration %}",
    "{{ ((((((((((1)))))))))) }}",
    "{{ [[[[[[[[1]]]]]]]] }}",
    "{{ not not not 1 }}",
)


def expression(dice: Random, depth: int = 0) -> str:
    """One expression of the language."""
    if depth > 4:
        return dice.choice((*NAMES, *TEXTS, *NUMBERS))

    def sub() -> str:
        return expression(dice, depth + 1)

    kind = dice.randrange(15)
    if kind < 3:
        return dice.choice((dice.choice(NAMES), dice.choice(TEXTS), dice.choice(NUMBERS)))
    if kind == 3:
        return f"{sub()}.{dice.choice(ATTRIBUTES)}"
    if kind == 4:
        return f"{sub()}[{dice.choice((sub(), repr(dice.choice(ATTRIBUTES)), '1:', '::-1', '-1'))}]"
    if kind in (5, 6):
        return f"({sub()} | {dice.choice(FILTERS)})"
    if kind == 7:
        return f"({sub()} is {dice.choice(('', 'not '))}{dice.choice(TESTS)})"
    if kind == 8:
        arguments = [sub() for _ in range(dice.randrange(3))]
        extra = dice.choice(("", "", "x=1", "*x", "**x", "*messages", "a=messages"))
        return f"{sub()}({', '.join([*arguments, extra] if extra else arguments)})"
    if kind == 9:
        return f"{dice.choice(NAMES)}.{dice.choice(ATTRIBUTES)}({dice.choice(('', sub()))})"
    if kind in (10, 11):
        return f"({sub()} {dice.choice(BINARY)} {sub()})"
    if kind == 12:
        return dice.choice(
            (f"[{sub()}, {sub()}]", f"({sub()},)", f"{{'a': {sub()}}}", f"{{{sub()}: 1}}")
        )
    if kind == 13:
        return f"({sub()} if {sub()} else {sub()})"
    return f"namespace(x={sub()})"


def statement(dice: Random, depth: int = 0) -> str:
    """One statement, with others inside."""
    kind = dice.randrange(14)
    if kind < 5 or depth > 3:
        return f"{{{{ {expression(dice)} }}}}"

    def body() -> str:
        return "".join(statement(dice, depth + 1) for _ in range(dice.choice((1, 1, 2))))

    if kind == 5:
        many = dice.choice(
            (
                "messages",
                "range(3)",
                "range(3)",
                expression(dice),
                "range(99999)" if dice.random() < 0.03 else "[1, 2]",
            )
        )
        ending = dice.choice(
            ("", "", " if loop.index is even", " recursive", f" if {expression(dice)}")
        )
        jump = dice.choice(("", "", "{% break %}", "{% continue %}", "{{ loop(x) }}"))
        return f"{{% for m in {many}{ending} %}}{body()}{jump}{{% endfor %}}"
    if kind == 6:
        return f"{{% if {expression(dice)} %}}{body()}{{% else %}}{body()}{{% endif %}}"
    if kind == 7:
        name = dice.choice(("x", "y", "ns", "ns.x", "m", "range", "loop"))
        return f"{{% set {name} = {expression(dice)} %}}"
    if kind == 8:
        return f"{{% set x %}}{body()}{{% endset %}}"
    if kind == 9:
        name = dice.choice("fg")
        call = f"{{{{ {name}({expression(dice)}) }}}}"
        return f"{{% macro {name}(x, y=1) %}}{body()}{{% endmacro %}}{call}"
    if kind == 10:
        return f"{{% call f({expression(dice)}) %}}{body()}{{% endcall %}}"
    if kind == 11:
        return f"{{% filter {dice.choice(FILTERS)} %}}{body()}{{% endfilter %}}"
    if kind == 12:
        return f"{{% with x = {expression(dice)} %}}{body()}{{% endwith %}}"
    return dice.choice(FORBIDDEN)


START = "{% set ns = namespace(x=1) %}{% set x = messages[0].content %}"


@dataclass
class TemplateInput:
    """A template as a list of statements; a mutation adds, replaces or removes one."""

    parts: list[str] = field(default_factory=lambda: [START, "{{ x }}"])

    def mutate(self, dice: Random) -> None:
        what = dice.randrange(6)
        at = dice.randrange(1, len(self.parts) + 1)
        if what == 0 and at < len(self.parts):
            self.parts[at] = statement(dice)
        elif what == 1 and len(self.parts) > 2:
            del self.parts[at - 1]
        elif what == 2 and dice.random() < 0.1:  # letters of a template, whatever they mean then
            text = self.parts[at - 1]
            place = dice.randrange(len(text) + 1)
            self.parts[at - 1] = (
                text[:place] + dice.choice("{}%#'\"([|.~*-\0\n") + text[place + 1 :]
            )
        elif what == 3 and dice.random() < 0.02:
            self.parts[at - 1] *= dice.choice((10, 200, 3000))
        else:
            self.parts.insert(at, statement(dice))

    def write(self, folder: Path) -> Path:
        path = folder / "chat_template.jinja"
        path.write_text("".join(self.parts), "utf-8", errors="surrogatepass", newline="")
        return path
