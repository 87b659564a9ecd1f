"""Finds small changes to make to Python code.

It changes code inside functions, but not annotations, defaults, decorators or sentences.
"""

import ast
import re
from collections.abc import Iterator
from typing import Final

from tests.mutation.mutants import Edit

COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, ...]]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
}
NAMES: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
QUERIES: Final = ("filter", "exclude", "get", "get_or_create", "update_or_create", "update")
LOCKS: Final = re.compile(r"\.select_for_update\([^()]*\)")


def edits(source: str) -> Iterator[Edit]:
    yield from _Edits(source).found


class _Edits(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Edit] = []
        self.names: list[str] = []
        self.depth = 0  # how many functions enclose the node
        self.lines = range(0)
        self.whole = range(0)  # bytes of the top-level statement that encloses the node
        for each in ast.parse(source).body:
            if isinstance(each, ast.ClassDef | ast.FunctionDef):
                self.whole = range(self.start(each), self.end(each))
                self.visit(each)

    def start(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        return self.source[self.start(node) : self.end(node)].decode()

    def add(self, start: int, end: int, new: str) -> None:
        if not self.depth:
            return
        before = self.source[self.whole.start : start]
        after = self.source[end : self.whole.stop]
        try:
            ast.parse(before + new.encode() + after)
        except SyntaxError:
            return
        self.found.append(Edit(".".join(self.names), start, end, new, self.lines))

    def replace(self, node: ast.AST, new: str) -> None:
        self.add(self.start(node), self.end(node), new)

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Replaces the operator between two operands."""
        start, end = self.end(left), self.start(right)
        if found := re.search(old, self.source[start:end].decode()):
            offset = len(self.source[start:end].decode()[: found.start()].encode())
            self.add(start + offset, start + offset + len(found[0]), new)

    # --- The position in the tree

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            self.lines = range(node.lineno, max(last, node.lineno) + 1)
        super().visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.names.append(node.name)
        for each in node.body:
            self.visit(each)
        self.names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        is_outermost = not self.depth
        if is_outermost:
            self.names.append(node.name)
        self.depth += 1
        for each in node.body:
            if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)):
                self.visit(each)
        self.depth -= 1
        if is_outermost:
            self.names.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        return  # mostly sentences, and positions inside are not known

    # --- Changes

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            for new in COMPARISONS[type(operator)]:
                self.between(left, right, r"[<>=!]+|is not|is|not in|in", new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        new = "or" if isinstance(node.op, ast.And) else "and"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, r"\b(and|or)\b", new)
        for each in node.values:  # leaves a condition out
            self.replace(each, "True" if isinstance(node.op, ast.And) else "False")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC:
            old, new = ARITHMETIC[type(node.op)]
            self.between(node.left, node.right, re.escape(old), new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.replace(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        for new in ("True", "False"):
            self.replace(test, new)
        if not isinstance(test, ast.Compare | ast.NamedExpr):
            self.replace(test, f"not ({self.text(test)})")

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for each in node.ifs:
            self._condition(each)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value))
        elif isinstance(value, int):
            self.replace(node, str(value + 1))
            self.replace(node, f"({value - 1})")
        elif isinstance(value, str) and re.fullmatch(r"[a-z_]+", value):
            self.replace(node, f'"{value}_"')  # a code; sentences are left alone

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in NAMES:
            self.replace(node, NAMES[node.id])

    def visit_Return(self, node: ast.Return) -> None:
        if node.value and self.text(node.value) != "None":
            self.replace(node.value, "None")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.replace(node, "pass")
        if node.exc:
            self.visit(node.exc)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        # This leaves out assignments to an attribute or an item only. Without an assignment to a
        # plain name, the next lines would always fail, because the name is undefined.
        if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            self.replace(node, "pass")
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in QUERIES:
                for keyword in node.keywords:
                    self._without(keyword)
            if node.func.attr == "select_for_update":
                self.add(self.end(node.func.value), self.end(node), "")
        self.generic_visit(node)

    def _without(self, keyword: ast.keyword) -> None:
        """Leaves an argument of a query out."""
        end = self.end(keyword)
        comma = re.match(rb"\s*,\s*", self.source[end:])
        self.add(self.start(keyword), end + (comma.end() if comma else 0), "")
