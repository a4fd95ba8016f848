"""Token usage: input includes cached tokens, output includes reasoning, total = input + output (effects §21, W-39)."""

from __future__ import annotations

from dataclasses import dataclass

from lash_tasks.domain.ids import ReplayKey


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
