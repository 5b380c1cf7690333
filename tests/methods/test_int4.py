"""int4 a token: half the codes of int8, a coarser text; packing goes on while tokens come."""

from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT

LANES = 3 * 2


def test_bytes_are_what_the_bits_say():
    ledger = generate(tiny_model(), PROMPT, use=["int4"], max_tokens=1)[1]
    assert ledger.kv_bytes_end == LANES * len(PROMPT) * (4 + 4 + 4 + 4 + 4)
    finer = generate(tiny_model(), PROMPT, use=["int4:group=4"], max_tokens=1)[1]
    assert finer.kv_bytes_end == LANES * len(PROMPT) * (4 + 4 + 8 + 8 + 4)


def test_new_tokens_are_packed_by_the_gap():
    """At most gap - 1 generated tokens lie unpacked."""
    model = tiny_model()
    small, large = (
        generate(model, PROMPT, use=[f"int4:gap={gap}"], max_tokens=41)[1].kv_bytes_end for gap in (10, 1000)
    )
    assert small == LANES * 80 * 20 < large
