"""Token usage: input includes cached tokens, output includes reasoning, total = input + output (effects §21, W-39)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lash_tasks.domain.ids import ReplayKey
from lash_tasks.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class TokenUsage:
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def __sub__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.cached_input_tokens - other.cached_input_tokens,
            self.reasoning_tokens - other.reasoning_tokens,
        )

    def any_negative(self) -> bool:
        return min(self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_tokens) < 0

    def __bool__(self) -> bool:
        return any((self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_tokens))


NO_USAGE = TokenUsage()


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """What all calls of one model from one source have used."""

    source: str
    model: str
    calls: int
    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """The usage of one recorded effect. Keyed by it, so a replay counts once (sessions §10, W48)."""

    effect_key: ReplayKey
    source: str
    model: str
    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class TokenLedgerEntry:
    """What one model has used for one source. Well-known sources: turn, compaction, child; any other is as good."""

    source: str
    model: str
    usage: TokenUsage


Ledger = Sequence[TokenLedgerEntry]


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums, with what follows from them (docs/adr/0020-how-tokens-are-counted.md)."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    total_tokens: int
    """Input and output. Cached tokens are among the input, reasoning tokens among the output."""
    context_total_tokens: int
    """All that went through the models' contexts: the same, because cached tokens are in it already."""
    uncached_total_tokens: int
    """The total without what came from a cache."""

    @staticmethod
    def of(usage: TokenUsage) -> UsageTotals:
        return UsageTotals(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            total_tokens=usage.total_tokens,
            context_total_tokens=usage.total_tokens,
            uncached_total_tokens=usage.total_tokens - usage.cached_input_tokens,
        )


@dataclass(frozen=True, slots=True)
class SessionUsageReport:
    """A session's ledger, summed up. Rows and keys stand in the order of source and model."""

    entry_count: int
    """Pairs of source and model."""
    usage: UsageTotals
    by_source: dict[str, UsageTotals]
    by_model: dict[str, UsageTotals]
    by_source_model: tuple[TokenLedgerEntry, ...]
    last_prompt: PromptUsage | None = None
    """How full the context was at the last model call of a turn."""
    children_usage: tuple[TokenLedgerEntry, ...] = ()
    """What of all this its children have used, by the label that each was given."""


@dataclass(frozen=True, slots=True)
class PromptUsage:
    """What the last model call says about the size of the context."""

    prompt_context_tokens: int
    """All tokens of the prompt, whether or not from a cache."""
    input_tokens: int
    cached_input_tokens: int
    context_budget_tokens: int
    """Prompt and answer: what the next call begins with."""


def merge_ledger(entries: Iterable[TokenLedgerEntry]) -> tuple[TokenLedgerEntry, ...]:
    """One entry for each source and model, in the order in which they came. Without any token there is none."""
    merged: dict[tuple[str, str], TokenUsage] = {}
    for entry in entries:
        key = (entry.source, entry.model)
        merged[key] = merged.get(key, NO_USAGE) + entry.usage
    return tuple(TokenLedgerEntry(source, model, usage) for (source, model), usage in merged.items() if usage)


def merge_totals(totals: Iterable[UsageTotal]) -> list[UsageTotal]:
    """One total for each source and model, in their order."""
    merged: dict[tuple[str, str], UsageTotal] = {}
    for total in totals:
        key = (total.source, total.model)
        known = merged.get(key, UsageTotal(*key, calls=0, usage=NO_USAGE))
        merged[key] = UsageTotal(*key, calls=known.calls + total.calls, usage=known.usage + total.usage)
    return [merged[key] for key in sorted(merged)]


def ledger_of(totals: Iterable[UsageTotal]) -> tuple[TokenLedgerEntry, ...]:
    return tuple(TokenLedgerEntry(total.source, total.model, total.usage) for total in totals)


def usage_report(
    entries: Iterable[TokenLedgerEntry],
    last_prompt: PromptUsage | None = None,
    *,
    children: Iterable[TokenLedgerEntry] = (),
) -> SessionUsageReport:
    """The report of a ledger with those of the children in it."""
    theirs = merge_ledger(children)
    rows = sorted(merge_ledger([*entries, *theirs]), key=lambda row: (row.source, row.model))
    return SessionUsageReport(
        entry_count=len(rows),
        usage=UsageTotals.of(_sum(rows)),
        by_source={name: UsageTotals.of(_sum(rows, source=name)) for name in sorted({row.source for row in rows})},
        by_model={name: UsageTotals.of(_sum(rows, model=name)) for name in sorted({row.model for row in rows})},
        by_source_model=tuple(rows),
        last_prompt=last_prompt,
        children_usage=theirs,
    )


def _sum(rows: Ledger, source: str | None = None, model: str | None = None) -> TokenUsage:
    chosen = (row.usage for row in rows if source in (None, row.source) and model in (None, row.model))
    return sum(chosen, NO_USAGE)


def diff_token_ledger(before: Ledger, after: Ledger) -> tuple[TokenLedgerEntry, ...]:
    """What was used between two ledgers, by source and model; what did not change is left out.

    InvalidInput if anything decreased: then `after` is not the later of the two.
    """
    old, new = _by_key(before), _by_key(after)
    rows = []
    for source, model in sorted(old.keys() | new.keys()):
        delta = new.get((source, model), NO_USAGE) - old.get((source, model), NO_USAGE)
        if delta.any_negative():
            raise InvalidInput("after", f"has fewer tokens of source {source!r} and model {model!r} than before")
        if delta:
            rows.append(TokenLedgerEntry(source, model, delta))
    return tuple(rows)


def diff_usage_reports(before: SessionUsageReport, after: SessionUsageReport) -> tuple[TokenLedgerEntry, ...]:
    """`diff_token_ledger` of two reports."""
    return diff_token_ledger(before.by_source_model, after.by_source_model)


def _by_key(entries: Ledger) -> dict[tuple[str, str], TokenUsage]:
    return {(entry.source, entry.model): entry.usage for entry in merge_ledger(entries)}


def prompt_usage(last: TokenUsage, *, input_includes_cached: bool = True) -> PromptUsage | None:
    """The size of the context after a model call; None where nothing was counted.

    `input_includes_cached` tells the two conventions of providers apart. Usage that we store always includes them.
    """
    given, answer, cached = (max(0, n) for n in (last.input_tokens, last.output_tokens, last.cached_input_tokens))
    if not (given or answer or cached):
        return None
    fresh = max(0, given - cached) if input_includes_cached else given
    return PromptUsage(
        prompt_context_tokens=given if input_includes_cached else given + cached,
        input_tokens=given,
        cached_input_tokens=cached,
        context_budget_tokens=fresh + answer + cached,
    )
