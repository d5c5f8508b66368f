"""What is wrong with a PromQL expression, given the series of a live page: names, labels, values that none of them has.

It walks the syntax tree and never computes a value. Each node answers with the labels that its result has, so that a
grouping, a legend or an annotation can be asked whether what it names is still there.
"""

import re
from dataclasses import dataclass, field

import promql_parser as promql

# What Prometheus adds to every series that it scrapes.
SCRAPED = frozenset({"instance", "job"})
# Series of Prometheus' own making, which no page shows.
OWN = ("up", {"instance", "job"})
# Grafana puts these in: a window, a range, and "all" of a variable.
FILLED_IN = {"$__rate_interval": "5m", "$__range": "6h", "$model": ".*", "$provider": ".*"}


@dataclass
class Series:
    """The series of a page: pairs of a name and its labels."""

    rows: list[tuple[str, dict[str, str]]]
    labels: dict[str, frozenset[str]] = field(init=False)

    def __post_init__(self):
        self.labels = {OWN[0]: frozenset(OWN[1])}
        for name, pairs in self.rows:
            self.labels[name] = self.labels.get(name, SCRAPED) | pairs.keys()


@dataclass
class Judgement:
    """The complaints, the metrics that are named, and the labels of the result (None for a number)."""

    complaints: list[str] = field(default_factory=list)
    metrics: set[str] = field(default_factory=set)
    labels: frozenset[str] | None = None


def judge(expression, series):
    """Read an expression as Grafana would send it. A syntax error is an exception of the parser's."""
    for name, value in FILLED_IN.items():
        expression = expression.replace(name, value)
    judgement = Judgement()
    judgement.labels = _Reader(series, judgement).read(promql.parse(expression))
    return judgement


@dataclass
class _Reader:
    series: Series
    judgement: Judgement

    def read(self, node):
        match node:
            case promql.NumberLiteral() | promql.StringLiteral():
                return None
            case promql.VectorSelector():
                return self._select(node)
            case promql.MatrixSelector():
                return self._select(node.vector_selector)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self.read(node.expr)
            case promql.AggregateExpr():
                return self._aggregate(node)
            case promql.BinaryExpr():
                return self._join(node)
            case promql.Call():
                return self._call(node)
        raise AssertionError(f"this test does not know what a {type(node).__name__} does to labels")

    def _select(self, node):
        known = self.series.labels.get(node.name)
        self.judgement.metrics.add(node.name)
        if known is None:
            self._complain(f"no series is called {node.name}")
            return SCRAPED
        matchers = node.matchers.matchers
        for matcher in matchers:
            self._demand({matcher.name}, known, f"a label to match of {node.name}")
        pages = [matcher for matcher in matchers if matcher.name not in SCRAPED]
        rows = [labels for name, labels in self.series.rows if name == node.name]
        if pages and not any(all(_fits(matcher, labels) for matcher in pages) for labels in rows):
            self._complain(f"no series of {node.name} has {[(one.name, one.value) for one in pages]}")
        for matcher in pages:  # each word of a choice, because one of two that exists hides the other
            for word in matcher.value.split("|") if matcher.value != ".*" else ():
                if word not in {labels.get(matcher.name) for labels in rows}:
                    self._complain(f"no series of {node.name} has {matcher.name}={word!r}")
        return known

    def _aggregate(self, node):
        inner = self.read(node.expr) or frozenset()
        if node.modifier is None:
            return frozenset()
        named = frozenset(node.modifier.labels)
        self._demand(named, inner, "a label to group by")
        return named if node.modifier.type == promql.AggModifierType.By else inner - named

    def _join(self, node):
        left, right = self.read(node.lhs), self.read(node.rhs)
        assert node.modifier is None or node.modifier.matching is None, "this test does not know on() and ignoring()"
        if left is None or right is None:
            return left if right is None else right
        if left != right:  # without on() or ignoring() two sides match only where all their labels are equal
            self._complain(f"the sides have different labels: {sorted(left)} and {sorted(right)}")
        return left

    def _call(self, node):
        inner = [labels for labels in map(self.read, node.args) if labels is not None]
        labels = inner[-1] if inner else frozenset()
        if node.func.name == "histogram_quantile":
            self._demand({"le"}, labels, "what histogram_quantile needs")
            return labels - {"le"}
        return labels

    def _demand(self, named, known, what):
        for label in sorted(named - known):
            self._complain(f"{label} is no label there ({what})")

    def _complain(self, text):
        self.judgement.complaints.append(text)


def _fits(matcher, labels):
    value = labels.get(matcher.name, "")
    match matcher.op:
        case promql.MatchOp.Equal:
            return value == matcher.value
        case promql.MatchOp.NotEqual:
            return value != matcher.value
        case promql.MatchOp.Re:
            return re.fullmatch(matcher.value, value) is not None
        case _:
            return re.fullmatch(matcher.value, value) is None
