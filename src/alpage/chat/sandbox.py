"""The environment in which chat templates run: Jinja's sandbox, made bounded and trust-keeping.

Jinja's own sandbox protects Python's internals, not time and memory. Three more walls stand here.
What a template may name is listed (nodes, filters, methods, attributes), not what it may not.
`instrument` rewrites the parsed template so that each loop round and comparison counts a step,
each literal is trusted text and each container knows its size. And each value made by a call,
filter or operator passes through `Budget.admit`. One environment serves one rendering.
"""
# ruff: noqa: D102, N802, N815  (visit_* methods are named after nodes)

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Undefined, nodes, pass_context, pass_environment
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from alpage.chat import operations
from alpage.chat.budget import Budget, Refused, Space
from alpage.chat.marked import Marked
from alpage.core.errors import InputError


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


_NODES = _words(
    "Template Output For If Macro CallBlock FilterBlock With Scope ExprStmt Assign AssignBlock",
    "Continue Break Name NSRef Const TemplateData Tuple List Dict Pair Keyword CondExpr Filter",
    "Test Call Getitem Getattr Slice Concat Compare Operand Mul Div FloorDiv Add Sub Mod Pow And",
    "Or Not Neg Pos",
)
_FILTERS = _words(
    "abs capitalize center count d default dictsort e escape first float groupby indent int items",
    "last length list lower map max min reject rejectattr reverse round select selectattr sort",
    "string title trim truncate unique upper",
)
_TEXT_METHODS = _words(
    "capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal",
    "isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition",
    "removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split",
    "splitlines startswith strip swapcase title upper zfill",
)
_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, _TEXT_METHODS),
    (dict, frozenset({"get", "items", "keys", "values"})),
    (list, frozenset({"count", "index"})),
    (tuple, frozenset({"count", "index"})),
    (LoopContext, frozenset({"changed", "cycle"})),
)
_LOOP = _words("index index0 revindex revindex0 first last length depth depth0 previtem nextitem")
_STEP, _ADMIT, _LITERAL, _CONCAT = "alpage step", "alpage admit", "alpage literal", "alpage concat"


class GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is a plain scope."""

    tags = {"generation"}  # noqa: RUF012  (declared so by Jinja)

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse up to `endgeneration`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Instrument(NodeTransformer):
    """Rewrites a parsed template; `literals` collects its texts in order of first use."""

    def __init__(self) -> None:
        self.literals: list[Marked] = []

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """Refuse what is not listed; extensions and new versions of Jinja may add nodes."""
        name = type(node).__name__
        if name not in _NODES:
            raise Refused(f"line {node.lineno}: {name} is not allowed in a chat template")
        return super().visit(node, *args, **kwargs)

    def _literal(self, text: str, line: int) -> nodes.Filter:
        self.literals.append(Marked.literal(text))
        return _filter(nodes.Const(len(self.literals) - 1, lineno=line), _LITERAL, line)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        return self._literal(node.value, node.lineno) if isinstance(node.value, str) else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return self._literal(node.data, node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        node.node = self.visit(node.node)
        if not isinstance(node.arg, nodes.Const):
            node.arg = self.visit(node.arg)
        # Slices are compiled to plain Python and pass by `GuardedEnvironment.getitem`.
        if isinstance(node.arg, nodes.Slice):
            return _filter(node, _ADMIT, node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        pieces = [self.visit(piece) for piece in node.nodes]
        return _filter(nodes.List(pieces, lineno=node.lineno), _CONCAT, node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter(node.expr, _STEP, node.lineno)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        step = _filter(nodes.Const(None, lineno=node.lineno), _STEP, node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        if node.test is not None:
            node.test = _filter(node.test, _STEP, node.lineno)
        return node

    def _container(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":
            return node
        return _filter(node, _ADMIT, node.lineno)

    visit_List = visit_Dict = visit_Tuple = _container

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        # Python makes these two containers inside a macro; everything else was admitted before.
        if node.name in ("varargs", "kwargs") and node.ctx == "load":
            return _filter(node, _ADMIT, node.lineno)
        return node


def _filter(node: nodes.Node, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=line)


class GuardedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of one rendering (or, with an idle budget, of parsing and compiling)."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, budget: Budget, literals: list[Marked]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, GenerationTag],
            optimized=False,  # no folding of constants: 'a' * 10**9 would run while compiling
            finalize=self._written,
        )
        self.budget = budget
        self._functions: dict[str, Callable[..., Any]] = {
            "dict": dict,
            "namespace": _namespace,
            "raise_exception": _raise_exception,
            "range": operations.count_range,
            "strftime_now": operations.strftime_now,
        }
        self.globals = dict(self._functions)
        tests: dict[str, Any] = dict(TESTS)
        self.tests = {name: self._guarded(test) for name, test in tests.items()}
        self.filters = {name: self._text_filter(FILTERS[name]) for name in _FILTERS}
        self.filters.update(self._own_filters())
        self.filters[_STEP] = budget.step
        self.filters[_ADMIT] = budget.admit
        self.filters[_LITERAL] = literals.__getitem__
        self.filters[_CONCAT] = lambda pieces: operations.joined(budget, pieces)

    def _own_filters(self) -> dict[str, Callable[..., Any]]:
        budget = self.budget

        @pass_environment
        def join(environment: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
            if attribute is not None:
                value = map(make_attrgetter(environment, attribute), value)
            return operations.join_filter(budget, value, d)

        def replace(value: Any, old: Any, new: Any, count: Any = None) -> str:
            text, before, after = (budget.text_of(item) for item in (value, old, new))
            return operations.replaced(budget, text, before, after, count)

        def form(value: Any, *args: Any, **names: Any) -> str:
            return operations.percent(budget, budget.text_of(value), names or args)

        def tojson(value: Any, *args: Any, **names: Any) -> str:
            return operations.to_json(budget, value, *args, **names)

        own: dict[str, Callable[..., Any]] = {
            "join": join,
            "replace": replace,
            "format": form,
            "tojson": tojson,
            "sum": operations.add_up,
            "safe": budget.text_of,
        }
        return {name: self._text_filter(function) for name, function in own.items()}

    def _text_filter(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A guarded filter of values: of a function it would write what it is and where."""
        guarded = self._guarded(function)
        if function is FILTERS["default"]:  # passes on what it is given
            return guarded

        @wraps(function)
        def run(*args: Any, **names: Any) -> Any:
            for value in (*args, *names.values()):
                _refuse_function(value)
            return guarded(*args, **names)

        return run

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **names: Any) -> Any:
            self.budget.step()
            for value in (*args[1:], *names.values()):
                operations.check_width(value if function in _PADDING else None)
            if function is FILTERS["indent"]:
                operations.check_indent(self.budget, *args, **names)
            return self.budget.admit(function(*args, **names))

        return run

    @pass_context
    def _written(self, context: Context, value: Any) -> str:
        text = self.budget.text_of(value)
        self.budget.admit(text)
        return text

    def concat(self, pieces: Iterable[str]) -> str:
        """Join what a template, macro or block wrote."""
        return operations.joined(self.budget, pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Run one of the intercepted operators."""
        self.budget.step()
        plain = self.binop_table[operator]
        return self.budget.admit(operations.arithmetic(self.budget, operator, left, right, plain))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`: a listed method or a dictionary's entry; otherwise undefined."""
        self.budget.step()
        if attribute.startswith("_"):
            raise Refused(f"it may not read {attribute!r}")
        if isinstance(obj, Undefined):
            return getattr(obj, attribute)  # raises and says what is undefined
        if attribute in _methods(obj) or (isinstance(obj, LoopContext) and attribute in _LOOP):
            return getattr(obj, attribute)
        if isinstance(obj, Namespace):
            return getattr(obj, attribute, self._missing(obj, attribute))
        if isinstance(obj, Macro) and attribute == "name":
            return obj.name
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return self._missing(obj, attribute)

    def _missing(self, obj: Any, name: Any) -> Undefined:
        kind = next((kind.__name__ for kind, _ in _METHODS if isinstance(obj, kind)), "value")
        return self.undefined(hint=f"a {kind} has no {str(name)[:40]!r} here")

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`, falling back to `obj.argument` as Jinja does."""
        self.budget.step()
        if isinstance(obj, Undefined):
            return obj[argument]  # raises and says what is undefined
        if isinstance(obj, str | list | tuple | dict | range):
            try:
                return obj[argument]
            except (TypeError, LookupError):
                pass
        if isinstance(argument, str):
            return self.getattr(obj, argument)
        return self._missing(obj, argument)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a loop, a listed function or a listed method; nothing else."""
        self.budget.step()
        if isinstance(obj, Macro | LoopContext):
            self.budget.enter()
            try:
                return context.call(obj, *args, **kwargs)
            finally:
                self.budget.leave()
        if isinstance(obj, Undefined):
            return obj(*args, **kwargs)  # raises and says what is undefined
        # Jinja hands these to functions that want the context; none of the listed ones does.
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        if any(obj is function for function in self._functions.values()):
            return self.budget.admit(obj(*args, **kwargs))
        if isinstance(obj, MethodType | BuiltinMethodType):
            owner, name = obj.__self__, obj.__name__
            if name in _methods(owner):
                result = operations.call_method(self.budget, owner, name, args, kwargs)
                return self.budget.admit(result)
        raise Refused(f"it may not call a {type(obj).__name__}")


_PADDING = tuple(FILTERS[name] for name in ("center", "indent", "round", "truncate"))


def _methods(obj: Any) -> frozenset[str]:
    for kind, names in _METHODS:
        if isinstance(obj, kind):
            return names
    return frozenset()


def _namespace(*args: Any, **values: Any) -> Space:
    return Space(*args, **values)


def _refuse_function(value: Any) -> None:
    if callable(value) and not isinstance(value, Macro | LoopContext | Undefined):
        raise Refused(f"it may not write a {type(value).__name__}")


def _raise_exception(message: Any) -> None:
    _refuse_function(message)
    text = str(message)[:2000]
    raise InputError(f"the model's chat template refuses these messages: {text}")


def compiles_to_few_levels(tree: nodes.Node, limit: int = 150) -> bool:
    """Whether no expression or block nests deeper than `limit`; iterative, so safe to ask."""
    level = [tree]
    for _ in range(limit):
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return True
    return False
