"""Templates as a hostile model file would bring them, each with what is said about it.

Run as a program it renders all of them in little memory and prints what was said.
"""

DOUBLE = (
    "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
)


def doubling(start: str, step: str, after: str = "") -> str:
    return DOUBLE.replace("START", start).replace("STEP", step) + after


TOO_LARGE = "failed: it makes a value of more than 1,0"
MILLION = "'a' * 1000000"

MEMORY = {
    "long string": ("{{ 'a' * 10 ** 9 }}", TOO_LARGE),
    "long string, reversed": ("{{ 10 ** 9 * 'a' }}", TOO_LARGE),
    "long list": ("{{ [1] * 10 ** 9 }}", TOO_LARGE),
    "empty strings": ("{% set x = [''] * 10 ** 9 %}", TOO_LARGE),
    "nothing, often": ("{{ [] * 10 ** 12 }}", TOO_LARGE),
    "doubling with ~": (doubling("'abcd'", "ns.x ~ ns.x"), TOO_LARGE),
    "doubling with +": (doubling("'abcd'", "ns.x + ns.x"), TOO_LARGE),
    "doubling with *": (doubling("'abcd'", "ns.x * 2"), TOO_LARGE),
    "doubling with %": (doubling("'abcd'", "'%s%s' % (ns.x, ns.x)"), TOO_LARGE),
    "doubling with format": (doubling("'abcd'", "'{0}{0}'.format(ns.x)"), TOO_LARGE),
    "doubling with join": (doubling("'abcd'", "[ns.x, ns.x] | join"), TOO_LARGE),
    "doubling with str.join": (doubling("'abcd'", "','.join([ns.x, ns.x])"), TOO_LARGE),
    "doubling with replace": (doubling("'aaaa'", "ns.x | replace('a', 'aa')"), TOO_LARGE),
    "doubling with str.replace": (doubling("'aaaa'", "ns.x.replace('a', 'aa')"), TOO_LARGE),
    "doubling lists": (doubling("[1]", "ns.x + ns.x"), TOO_LARGE),
    "doubling nested lists": (doubling("[1]", "[ns.x, ns.x]", "{{ ns.x }}"), TOO_LARGE),
    "doubling tuples": (doubling("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"), TOO_LARGE),
    "doubling dictionaries": (
        doubling("1", "{'a': ns.x, 'b': ns.x}", "{{ ns.x | tojson }}"), TOO_LARGE),
    "doubling by dict()": (doubling("1", "dict(a=ns.x, b=ns.x)", "{{ ns.x }}"), TOO_LARGE),
    "doubling by items()": (
        doubling("1", "[{'a': ns.x}.items(), {'b': ns.x}.values()]", "{{ ns.x }}"), TOO_LARGE),
    "doubling by slices": (doubling("[1]", "[ns.x[:], ns.x[:]]", "{{ ns.x }}"), TOO_LARGE),
    "doubling varargs": (
        "{% set ns = namespace(x=1) %}{% macro f() %}{% set ns.x = varargs %}{% endmacro %}"
        "{% for i in range(60) %}{{ f(ns.x, ns.x) }}{% endfor %}{{ ns.x == ns.x }}", TOO_LARGE),
    "doubling kwargs": (
        "{% set ns = namespace(x=1) %}{% macro f() %}{% set ns.x = kwargs %}{% endmacro %}"
        "{% for i in range(60) %}{{ f(a=ns.x, b=ns.x) }}{% endfor %}{{ ns.x }}", TOO_LARGE),
    "doubling blocks": (
        "{% set ns = namespace(x='abcd') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}"
        "{% endset %}{% set ns.x = y %}{% endfor %}", TOO_LARGE),
    "doubling through macros": (
        doubling("'abcd'", "twice(ns.x)").replace(
            "{% for", "{% macro twice(s) %}{{ s }}{{ s }}{% endmacro %}{% for", 1), TOO_LARGE),
    "output without end": (
        f"{{% set x = {MILLION} %}}{{% for i in range(10000) %}}{{{{ x }}}}{{% endfor %}}",
        TOO_LARGE),
    "values without end": (
        "{% for i in range(10000) %}{% set x = 'a' * 900000 %}{% endfor %}",
        "failed: it writes without end"),
    "many large strings": (
        "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}"
        f"{{% set ns.l = ns.l + [{MILLION} ~ i] %}}{{% endfor %}}", TOO_LARGE),
    "nesting without end": (
        doubling("1", "[ns.x]").replace("range(60)", "range(9999)"),
        "failed: it nests values more than 64 deep"),
    "center": ("{{ 'a' | center(10 ** 9) }}", "failed: it pads to 1000000000 characters"),
    "str.center": ("{{ 'a'.center(10 ** 9) }}", "failed: it pads to 1000000000 characters"),
    "str.ljust": ("{{ 'a'.ljust(width=10 ** 9) }}", "failed: it pads to 1000000000 characters"),
    "str.zfill": ("{{ '1'.zfill(10 ** 9) }}", "failed: it pads to 1000000000 characters"),
    "indent": ("{{ ('a\\n' * 100000) | indent(9999) }}", TOO_LARGE),
    "indent width": ("{{ 'a\\nb' | indent(10 ** 9) }}", "failed: it pads to 1000000000 characters"),
    "replace": (f"{{{{ ({MILLION}) | replace('a', {MILLION}) }}}}", TOO_LARGE),
    "replace nothing": ("{{ ('a' * 10000).replace('', 'b' * 10000) }}", TOO_LARGE),
    "join numbers": (f"{{{{ range(100000) | join({MILLION}) }}}}", TOO_LARGE),
    "map to large": (
        "{{ range(100000) | map('string') | map('center', 9999) | list }}",
        TOO_LARGE),
    "% width": ("{{ '%1000000000d' % 1 }}", "failed: it formats with '%1000000000d'"),
    "% star": ("{{ '%*d' % (10 ** 9, 1) }}", "failed: it formats with '%*d'"),
    "% precision": ("{{ '%.1000000000f' % 1 }}", "failed: it formats with '%.1000000000"),
    "format filter width": ("{{ '%1000000000s' | format(1) }}", "it formats with '%1000000000s'"),
    "format width": ("{{ '{:>1000000000}'.format(1) }}", "failed: it formats with '>1000000000'"),
    "format nested width": ("{{ '{:>{}}'.format(1, 10 ** 9) }}", "failed: it formats with '>{}'"),
    "tojson indent": ("{{ [1] | tojson(indent=10 ** 9) }}", "its tojson indents by 1000000000"),
    "tojson separators": (
        f"{{{{ [1] | tojson(separators=({MILLION}, ':')) }}}}",
        "failed: its tojson writes separators of more than 16 characters"),
    "split": (
        "{{ ('a ' * 400000).split() }}", "failed: it splits a text into more than 100,000 parts"),
    "characters": (f"{{% set x = ({MILLION}) | list %}}", TOO_LARGE),
    "strftime": ("{{ strftime_now('%999999999Y') }}", "it formats the time with '%999999999Y'"),
    "sum of lists": ("{{ [[1], [2]] | sum(start=[]) }}", "failed: it sums a SizedList"),
    "power": ("{{ 9 ** 9999999 }}", "failed: it raises large numbers to large powers"),
    "power, float": ("{{ 9.5 ** 1000 }}", "failed: it raises large numbers to large powers"),
    "squares": (doubling("3", "ns.x * ns.x"), "it makes an integer of more than 256 bits"),
    "int of text": ("{{ ('f' * 999999) | int(0, 16) }}", "an integer of more than 256 bits"),
    "exception": ("{{ raise_exception('a' * 1000000) }}", "refuses these messages: aaaa"),
}  # fmt: skip

ENDLESS = "computes for more than|takes more than 1,0"
TIME = {
    "nested loops": (
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        ENDLESS),
    "recursion": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "failed: its macros call each other more than 50 deep"),
    "branching recursion": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(40) }}", ENDLESS),
    "recursive loop": (
        "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "failed: its macros call each other more than 50 deep"),
    "caller recursion": (
        "{% macro f() %}{{ caller() }}{% call f() %}x{% endcall %}{% endmacro %}"
        "{% call f() %}x{% endcall %}", "failed: its macros call each other more than 50 deep"),
    "filtered loop": (
        "{% for i in range(100000) if range(100000) | list | length == 0 %}{% endfor %}", ENDLESS),
    "long range": (
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "failed: it asks for range(0, 1000000000), longer than 100,000"),
    "search": (
        f"{{% set x = {MILLION} %}}{{% for i in range(100000) %}}"
        "{{ (x[:100000] ~ 'b') in x }}{% endfor %}", "failed: "),
    "comparison": (
        "{% set a = 'x' * 900000 %}{% set b = 'x' * 900000 %}"
        "{% for i in range(100000) %}{% if a == b and a <= b %}{% endif %}{% endfor %}", ENDLESS),
    "sorting": (
        f"{{% set b = {MILLION} %}}{{{{ ([b ~ 'x', b ~ 'y'] * 50000) | sort | length }}}}",
        TOO_LARGE),
    "rounding": ("{{ 1.5 | round(10 ** 9, 'ceil') }}", "failed: it pads to 1000000000 characters"),
    "tests": (
        f"{{% set x = {MILLION} %}}{{% for i in range(100000) %}}"
        "{% if x is lower %}{% endif %}{% endfor %}", ENDLESS),
    "itself": (
        "{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns }}{{ [ns] }}{{ ns | tojson }}",
        "failed: Object of type Space is not JSON serializable"),
}  # fmt: skip

MAY_NOT = "failed: it may not "
INTERNALS = {
    "class": ("{{ ''.__class__ }}", MAY_NOT + "read '__class__'"),
    "class by item": ("{{ ''['__class__'] }}", MAY_NOT + "read '__class__'"),
    "class by made name": ("{{ ''['__cla' ~ 'ss__'] }}", MAY_NOT + "read '__class__'"),
    "class by map": ("{{ [''] | map(attribute='__class__') | list }}", MAY_NOT + "read '__class__"),
    "class by join": ("{{ [''] | join(',', '__class__') }}", MAY_NOT + "read '__class__'"),
    "class by sort": ("{{ ['', 'a'] | sort(attribute='__class__') }}", MAY_NOT + "read"),
    "class by selectattr": ("{{ [''] | selectattr('__class__') | list }}", MAY_NOT + "read"),
    "attr filter": ("{{ '' | attr('__class__') }}", "No filter named 'attr'"),
    "attr by map": ("{{ [''] | map('attr', '__class__') | list }}", "No filter named 'attr'"),
    "format attribute": ("{{ '{0.__class__}'.format(1) }}", "with the field '0.__class__'"),
    "format item": ("{{ '{0[a]}'.format({'a': 1}) }}", "failed: it formats with the field '0[a]'"),
    "format_map": ("{{ '{a}'.format_map({'a': 1}) }}", "failed: a str has no 'format_map' here"),
    "format conversion": ("{{ '{!a}'.format(1) }}", "failed: it formats with !a"),
    "globals": ("{{ raise_exception.__globals__ }}", MAY_NOT + "read '__globals__'"),
    "range": ("{{ range.__init__ }}", MAY_NOT + "read '__init__'"),
    "namespace": ("{{ namespace.__init__.__globals__ }}", MAY_NOT + "read '__init__'"),
    "method owner": ("{{ ''.upper.__self__ }}", MAY_NOT + "read '__self__'"),
    "loop": ("{% for x in [1] %}{{ loop._iterator }}{% endfor %}", MAY_NOT + "read '_iterator'"),
    "loop iterable": ("{% for x in [1] %}{{ loop.foo.x }}{% endfor %}", "a LoopContext has no"),
    "macro": ("{% macro m() %}{% endmacro %}{{ m._func }}", MAY_NOT + "read '_func'"),
    "undefined": ("{{ nothing._fail_with_undefined_error }}", MAY_NOT + "read '_fail_"),
    "self": ("{{ self }}", MAY_NOT + "write a TemplateReference"),
    "self attribute": ("{{ self._TemplateReference__context }}", MAY_NOT + "read '_Template"),
    "a function": ("{{ raise_exception }}", MAY_NOT + "write a function"),
    "a method": ("{{ ''.upper }}", MAY_NOT + "write a "),
    "a kept method": ("{{ [''.upper] }}", MAY_NOT + "keep a "),
    "a kept function": ("{{ {'a': range} | tojson }}", MAY_NOT + "keep a function"),
    "append": ("{% set x = [] %}{{ x.append(1) }}", "failed: a list has no 'append' here"),
    "update": ("{{ messages[0].update({}) }}", "failed: a dict has no 'update' here"),
    "encode": ("{{ 'a'.encode() }}", "failed: a str has no 'encode' here"),
    "calling text": ("{{ 'a'() }}", MAY_NOT + "call a Marked"),
    "lipsum": ("{{ lipsum.__globals__['os'] }}", MAY_NOT + "read '__globals__'"),
    "lipsum text": ("{{ lipsum(n=10 ** 6) }}", "failed: 'lipsum' is undefined"),
    "cycler": ("{{ cycler('a') }}", "failed: 'cycler' is undefined"),
    "joiner": ("{{ joiner() }}", "failed: 'joiner' is undefined"),
    "include": ("{% include '/etc/passwd' %}", "cannot be read: line 1: Include is not allowed"),
    "import": ("{% import 'os' as os %}", "cannot be read: line 1: Import is not allowed"),
    "from": ("{% from 'os' import path %}", "cannot be read: line 1: FromImport is not allowed"),
    "extends": ("{% extends 'x' %}", "cannot be read: line 1: Extends is not allowed"),
    "block": ("{% block x %}{% endblock %}", "cannot be read: line 1: Block is not allowed"),
    "autoescape": (
        "{% autoescape true %}{% endautoescape %}",
        "cannot be read: line 1: ScopedEvalContextModifier is not allowed"),
    "private namespace": (
        "{% set ns = namespace(_x=1) %}{{ ns._x }}", MAY_NOT + "read '_x'"),
}  # fmt: skip

DEEP = "cannot be read: its expressions or blocks nest too deep"
SOURCES = {
    "parentheses": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", DEEP),
    "lists": ("{{ " + "[" * 140 + "1" + "]" * 140 + " }}", "cannot be read: "),
    "sums": ("{{ " + "+".join(["a"] * 2500) + " }}", DEEP),
    "nots": ("{{ " + "not " * 10000 + "1 }}", DEEP),
    "minuses": ("{{ " + "-" * 2500 + "1 }}", DEEP),
    "pipes": ("{{ a" + "|trim" * 2500 + " }}", DEEP),
    "dots": ("{{ a" + ".b" * 2500 + " }}", DEEP),
    "many tokens": ("{{ 1 }}" * 4001, "cannot be read: it has 12,003 tokens; at most 12,000"),
    "ifs": ("{% if 1 %}" * 1000 + "{% endif %}" * 1000, DEEP),
    "elifs": ("{% if 1 %}" + "{% elif 1 %}" * 5000 + "{% endif %}", "it has 20,007 tokens"),
    "loops": ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "cannot be read: too many static"),
    "number": ("{{ " + "9" * 5000 + " }}", "cannot be read: Exceeds the limit (4300 digits)"),
    "syntax": ("\n\n{% if %}", "cannot be read: line 3: Expected an expression"),
    "unclosed": ("{% for m in messages %}", "cannot be read: line 1: Unexpected end of template"),
    "open string": ("{{ 'a }}", "cannot be read: line 1: "),
    "unknown tag": ("{% system %}", "cannot be read: line 1: Encountered unknown tag 'system'"),
    "unknown filter": ("{{ 1 | nothing }}", "cannot be read: line 1: No filter named 'nothing'"),
    "unknown test": ("{{ 1 is nothing }}", "cannot be read: line 1: No test named 'nothing'"),
    "stray break": ("{% break %}", "cannot be read: "),
    "null": ("{{ '\0' }}{{ a.b }}", "failed: 'a' is undefined"),
    "too long": ("x" * 65_537, "has 65,537 characters; at most 65,536 are read"),
    "undefined": ("{{ a.b }}", "failed: 'a' is undefined"),
    "undefined call": ("{{ a() }}", "failed: 'a' is undefined"),
    "missing entry": ("{{ messages[0].a.b }}", "failed: a dict has no 'a' here"),
    "wrong types": ("{{ 'a' + 1 }}", "failed: "),
    "division": ("{{ 1 / 0 }}", "failed: division by zero"),
    "dict": ("{{ dict(*[1, 2, 3]) }}", "failed: dict expected at most 1 argument, got 3"),
    "% arguments": ("{{ '%s%s' % 1 }}", "failed: not enough arguments for format string"),
    "% leftovers": ("{{ 'x' % 1 }}", "failed: not all arguments converted"),
    "% mapping": ("{{ '%(a)s' % 1 }}", "failed: format requires a mapping"),
    "% unknown": ("{{ '%y' % 1 }}", "failed: it formats with '%y'"),
    "format missing": ("{{ '{}{}'.format(1) }}", "failed: tuple index out of range"),
    "json of nothing": ("{{ nothing | tojson }}", "Object of type Undefined is not JSON"),
    "join of numbers": ("{{ ','.join([1]) }}", "failed: sequence item 0: expected str instance"),
    "raise": ("{{ raise_exception('roles must alternate') }}",
              "the model's chat template refuses these messages: roles must alternate"),
}  # fmt: skip

ALL = {**MEMORY, **TIME, **INTERNALS, **SOURCES}


def said(source: str) -> str:
    from alpage.chat import ChatTemplate
    from alpage.core.errors import InputError, TemplateError

    try:
        return "rendered " + ChatTemplate(source).render_text([{"role": "user", "content": "Hi"}])
    except (TemplateError, InputError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    import resource
    import sys

    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, (source, _) in MEMORY.items():
        print(f"{name}: {said(source)[:200]}")
