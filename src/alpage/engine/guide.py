"""A request's constraint between samples: what it allows, what it forces, where the answer ends."""

import numpy as np

from alpage.engine.protocol import Request
from alpage.engine.sampling import Mask

_FADING = 0.9
_OFTEN = 0.25  # of the draws refused: a mask is computed ahead from here on


class Guide:
    """Asks the request's constraint about each token sampled, and jumps over forced tokens.

    A token is sampled as if there were no constraint. Where it is allowed it stands; else one is
    sampled again, among those that the mask leaves. Without top-k, top-p and min-p that gives
    every allowed token its share of the probability of all allowed ones, as a mask for each
    token would, and it asks for few masks, each of which costs as much as many tokens checked.

    A request that wants log-probabilities does not jump: every token of it is sampled, so that it
    has one. `stops`: ids that end the answer, which may do so where it is whole.
    """

    def __init__(self, request: Request, stops: frozenset[int]) -> None:
        assert request.constraint is not None
        self._constraint = request.constraint
        self._stops = stops
        self._ends: Mask | None = None
        self._jumps = request.sampling.top_logprobs is None
        self._begun = False
        self._refused = 0.0  # the share of late
        self._constraint.prepare()  # while the prompt runs

    @property
    def ended(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return self._constraint.ended

    def first(self) -> list[int]:
        """The tokens that every answer begins with, once."""
        if self._begun:
            return []
        self._begun = True
        return self._jump()

    def accept(self, token: int) -> list[int]:
        """Take a sampled token; the forced ones behind it, which are taken too."""
        self._constraint.accept(token)
        return self._jump()

    def allows(self, token: int) -> bool:
        """Whether a token that was sampled freely stands."""
        stands = (
            self._constraint.complete if token in self._stops else self._constraint.allows(token)
        )
        self._refused = _FADING * self._refused + (1 - _FADING) * (not stands)
        return stands

    def mask(self) -> Mask | None:
        """What may be sampled, the ids that end the answer included; None: it has ended."""
        allowed = self._constraint.allowed()
        if not self._constraint.complete:
            return allowed
        if not allowed.any():
            return None
        if self._ends is None:
            self._ends = _packed(self._stops, len(allowed))
        return allowed | self._ends

    def _jump(self) -> list[int]:
        """Take what is forced, and begin to compute the mask behind it if that is likely needed."""
        tokens = self._constraint.forced() if self._jumps else []
        for token in tokens:
            self._constraint.accept(token)
        if self._refused > _OFTEN:
            self._constraint.prepare()
        return tokens


def _packed(ids: frozenset[int], words: int) -> Mask:
    bits = np.zeros(words * 32, np.bool_)
    bits[[token for token in ids if 0 <= token < len(bits)]] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)
