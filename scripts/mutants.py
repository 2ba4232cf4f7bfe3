"""Mutants of one module: its source with one place broken.

The changes are mutmut's (`<` to `<=`, `and` to `or`, an argument removed, a number increased by
one, a value replaced by None, …), and two of our own: a call whose result is unused is removed, and
a condition is always or never met. Unlike with `mutmut run`, decorated functions and module-level
constants are mutated too.

Not mutated: annotations, decorators, and text for people: messages of raised errors, `description`
and `help`.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_if_exp, operator_string

TEXTS = ("description", "help")


@dataclass(frozen=True)
class Mutant:
    """`was` and `becomes` are the changed lines, stripped and joined by a space."""

    line: int
    function: range | None
    """The lines of the body of the outermost function around the change; None if there is none."""
    source: str
    was: str
    becomes: str


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module's source with another meaning, in order of its lines."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    module = wrapper.module
    visitor = _Visitor()
    wrapper.visit(visitor)
    found, meanings = [], {_meaning(source)}
    for line, function, original, replacement in visitor.changes:
        code = cst.ensure_type(module.deep_replace(original, replacement), cst.Module).code
        try:
            meaning = _meaning(code)
        except SyntaxError:
            continue
        if meaning not in meanings:
            meanings.add(meaning)
            found.append(Mutant(line, function, code, *_difference(source, code)))
    return found


class _Visitor(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[tuple[int, range | None, cst.CSTNode, cst.CSTNode]] = []
        self._function: cst.FunctionDef | None = None
        self._line = 1  # of the last node with a position; an operator may have none

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
            return False
        if isinstance(node, cst.FunctionDef) and self._function is None:
            self._function = node
        if position := self.get_metadata(PositionProvider, node, None):
            self._line = position.start.line
        for kind, operator in _OPERATORS:
            if isinstance(node, kind):
                for replacement in operator(node):
                    self.changes.append((self._line, self._body(), node, replacement))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if original_node is self._function:
            self._function = None

    def _body(self) -> range | None:
        if self._function is None:
            return None
        body = self.get_metadata(PositionProvider, self._function.body)
        lines = range(body.start.line, body.end.line + 1)
        return lines if self._line in lines else None


def _one_string(node: cst.BaseString) -> Iterable[cst.CSTNode]:
    return list(operator_string(node))[:1]  # the others only change its case


def _removed_call(node: cst.Expr) -> Iterator[cst.CSTNode]:
    if isinstance(node.value, cst.Call | cst.Await):
        yield cst.Pass()


_OPERATORS: list[tuple[type, Callable[[Any], Iterable[cst.CSTNode]]]] = [
    *((kind, op) for kind, op in mutation_operators if op is not operator_string),
    (cst.BaseString, _one_string),
    (cst.Expr, _removed_call),
    (cst.If, operator_if_exp),
    (cst.CompIf, operator_if_exp),
]


def _meaning(source: str) -> str:
    """The source's syntax tree, without text for people."""
    return ast.dump(_WithoutTexts().visit(ast.parse(source)))


class _WithoutTexts(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in TEXTS]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:  # noqa: N802
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                part.value = ""
        return self.generic_visit(node)


def _difference(source: str, code: str) -> tuple[str, str]:
    old, new = source.splitlines(), code.splitlines()
    while old and new and old[-1] == new[-1]:
        old.pop(), new.pop()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    return " ".join(line.strip() for line in old), " ".join(line.strip() for line in new)
