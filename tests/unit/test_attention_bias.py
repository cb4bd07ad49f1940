"""Biased attention against the dense mask that it replaces, both in their plainest form."""

import math

import pytest
import torch
from flux_krea.nodes.sampling.attention_bias import (
    BiasedAttention,
    Span,
    attend_by_merge,
    attend_by_rows,
    mask_pieces,
    query_biases,
)

TEXT, GRID = 30, (6, 8)
TOKENS = TEXT + GRID[0] * GRID[1]
LEFT_HALF = torch.zeros(1, 1, *GRID)
LEFT_HALF[..., :4] = 1
CASES = {
    "one": [Span(10, 20, 0.3)],
    "two in a row": [Span(10, 20, 0.3), Span(20, 30, 2.0)],
    "apart": [Span(5, 10, 0.5), Span(20, 30, 0.1)],
    "one at strength 1 after another": [Span(10, 20, 0.3), Span(20, 30, 1.0)],
    "almost nothing": [Span(10, 20, 1e-20)],
    "left half only": [Span(10, 20, 0.7, LEFT_HALF)],
    "left half, then everywhere": [Span(10, 20, 0.7, LEFT_HALF), Span(20, 30, 0.2)],
}


def attend(q, k, v, heads, mask=None, skip_reshape=True, skip_output_reshape=False):
    output = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return output if skip_output_reshape else output.transpose(1, 2).flatten(2)


def dense(q, k, v, spans):
    """Core's rule written as one matrix: a span's queries see only the biases of spans that came later."""
    mask = torch.zeros(TOKENS, TOKENS, dtype=torch.float64)
    for index, span in enumerate(spans):
        for query in range(TOKENS):
            if any(own.start <= query < own.stop for own in spans[index:]):
                continue
            weight = span.strength
            if span.where is not None:
                place = query - TEXT
                weight *= float(span.where.flatten()[place]) if place >= 0 else float(span.where.mean())
            mask[query, span.start : span.stop] = math.log(weight) if weight else -math.inf
    return attend(q.double(), k.double(), v.double(), 4, mask)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, TOKENS, 16, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype, error", [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
def test_both_ways_are_the_dense_mask(tensors, case, dtype, error):
    spans = CASES[case]
    q, k, v = (tensor.to(dtype) for tensor in tensors)
    wanted = dense(q, k, v, spans)
    biases = query_biases(spans, TEXT, GRID, TOKENS)
    rows = attend_by_rows(attend, q, k, v, 4, mask_pieces(spans, biases, dtype, q.device))
    merged = attend_by_merge(q, k, v, spans, biases).transpose(1, 2).flatten(2)
    assert (rows - wanted).abs().max() < error
    assert (merged - wanted).abs().max() < error
    assert (wanted - attend(q.double(), k.double(), v.double(), 4)).abs().max() > 10 * error


def test_no_mask_is_as_large_as_the_square_of_the_tokens():
    tokens, text = 20_000, 1_000
    spans = [Span(100, 800, 0.5, torch.rand(1, 1, 190, 100))]
    mapped = mask_pieces(spans, query_biases(spans, text, (190, 100), tokens), torch.float32, "cpu")
    assert max(mask.untyped_storage().nbytes() for _, mask in mapped) <= 512 * (tokens + 16) * 4
    assert sum(count for count, _ in mapped) == tokens
    plain = [Span(100, 800, 0.5)]
    rows = mask_pieces(plain, query_biases(plain, text, (190, 100), tokens), torch.float32, "cpu")
    assert [count for count, _ in rows] == [100, 700, 19_200]
    assert all(mask is None or mask.shape == (1, 1, 1, tokens) for _, mask in rows)


def test_rows_start_where_fast_kernels_can_read_them():
    spans = [Span(3, 7, 0.5)]
    for _, mask in mask_pieces(spans, query_biases(spans, 8, (1, 5), 13), torch.bfloat16, "cpu"):
        assert mask is None or all(stride % 16 == 0 for stride in mask.stride()[:-1])


@pytest.mark.parametrize("skip_output_reshape", [False, True])
def test_an_override_that_was_there_is_called_for_every_part(tensors, skip_output_reshape):
    q, k, v = tensors
    parts = []

    def previous(function, q, k, v, heads, mask=None, **options):
        parts.append(q.shape[2])
        return function(q, k, v, heads, mask=mask, **options)

    options = {"skip_reshape": True, "skip_output_reshape": skip_output_reshape}
    chained = BiasedAttention(CASES["one"], TEXT, GRID, previous)(attend, q, k, v, 4, **options)
    alone = BiasedAttention(CASES["one"], TEXT, GRID, None)(attend, q, k, v, 4, **options)
    assert parts == [10, 10, TOKENS - 20]
    assert torch.equal(chained, alone)


def test_attention_that_is_not_over_the_whole_sequence_is_left_alone(tensors):
    q, k, v = tensors
    override = BiasedAttention(CASES["one"], TEXT, GRID, None)
    short = q[:, :, :40], k[:, :, :40], v[:, :, :40]
    mask = torch.zeros(TOKENS, TOKENS)
    assert torch.equal(override(attend, *short, 4, skip_reshape=True), attend(*short, 4))
    assert torch.equal(override(attend, q[:, :, :40], k, v, 4, skip_reshape=True), attend(q[:, :, :40], k, v, 4))
    assert torch.equal(override(attend, q, k, v, 4, mask=mask, skip_reshape=True), attend(q, k, v, 4, mask))
