"""Biased attention against the dense mask that it replaces, both in their plainest form."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from flux_krea.nodes.sampling import attention_bias
from flux_krea.nodes.sampling.attention_bias import (
    BiasedAttention,
    Kind,
    Layout,
    Span,
    attend_by_merge,
    attend_by_rows,
    dense_mask,
    mask_pieces,
    query_biases,
    torch_kernel,
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


KIND = Kind(2, 4, 16, torch.float32, torch.device("cpu"))


@pytest.fixture(autouse=True)
def plain_attention(monkeypatch):
    """ComfyUI's attention functions, which these tests do without."""
    monkeypatch.setattr(attention_bias, "core_attention", lambda: attend)
    monkeypatch.setattr(attention_bias, "pytorch_attention", attend)


def override(case, previous=None) -> BiasedAttention:
    return BiasedAttention(CASES[case], Layout(TEXT, GRID), KIND, previous)


def attend(q, k, v, heads, mask=None, skip_reshape=True, skip_output_reshape=False, **_):
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
    merged = attend_by_merge(torch_kernel, q, k, v, spans, biases).transpose(1, 2).flatten(2)
    core_s = attend(q, k, v, 4, dense_mask(spans, biases, dtype, q.device))
    assert (rows - wanted).abs().max() < error
    assert (core_s - wanted).abs().max() < error
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
        if q.shape[2] != 256:  # not the question whether it honours masks
            parts.append(q.shape[2])
        return function(q, k, v, heads, mask=mask, **options)

    options = {"skip_reshape": True, "skip_output_reshape": skip_output_reshape}
    chained = override("one", previous)(attend, q, k, v, 4, **options)
    alone = override("one")(attend, q, k, v, 4, **options)
    assert parts == [10, 10, TOKENS - 20]
    assert torch.equal(chained, alone)


def test_attention_that_is_not_over_the_whole_sequence_is_left_alone(tensors):
    q, k, v = tensors
    biased = override("one")
    short = q[:, :, :40], k[:, :, :40], v[:, :, :40]
    mask = torch.zeros(TOKENS, TOKENS)
    assert torch.equal(biased(attend, *short, 4, skip_reshape=True), attend(*short, 4))
    assert torch.equal(biased(attend, q[:, :, :40], k, v, 4, skip_reshape=True), attend(q[:, :, :40], k, v, 4))
    assert torch.equal(biased(attend, q, k, v, 4, mask=mask, skip_reshape=True), attend(q, k, v, 4, mask))
    assert not biased.was_applied


def test_the_biases_are_made_once_for_all_blocks(tensors, monkeypatch):
    made = []
    monkeypatch.setattr(attention_bias, "query_biases", lambda *args: made.append(1) or query_biases(*args))
    monkeypatch.setattr(attention_bias, "merge_is_faster", lambda *_: True)
    monkeypatch.setattr(attend, "__name__", "attention_pytorch")
    merged = override("one")
    outputs = [merged(attend, *tensors, 4, skip_reshape=True) for _ in range(57)]
    assert merged.way.kernel and len(made) == 1
    assert (outputs[-1] - dense(*tensors, CASES["one"])).abs().max() < 2e-6


def ignores_masks(function, q, k, v, heads, mask=None, **options):
    """As packs do that put the released sageattn in: it takes a mask and ignores it."""
    return function(q, k, v, heads, **options)


def test_where_the_users_attention_ignores_masks_pytorch_takes_its_place(tensors):
    biased = override("one", ignores_masks)(attend, *tensors, 4, skip_reshape=True)
    assert (biased - dense(*tensors, CASES["one"])).abs().max() < 2e-6


def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
    output, weight = torch_kernel(q, k, v)
    return (output, weight) if return_lse else output


def old_sageattn(q, k, v, tensor_layout="HND", is_causal=False, smooth_k=True, **kwargs):
    return torch_kernel(q, k, v)[0]


@pytest.mark.parametrize("installed", [sageattn, old_sageattn])
def test_sage_merges_and_an_old_sage_leaves_it_to_pytorch(tensors, monkeypatch, installed):
    monkeypatch.setitem(sys.modules, "sageattention", SimpleNamespace(sageattn=installed))

    def attention_sage(q, k, v, heads, mask=None, **options):
        return attend(q, k, v, heads)

    monkeypatch.setattr(attention_bias, "core_attention", lambda: attention_sage)
    monkeypatch.setattr(attention_bias, "_answers", type(attention_bias._answers)())
    biased = override("left half, then everywhere")
    assert bool(biased.way.kernel) == (installed is sageattn)
    wanted = dense(*tensors, CASES["left half, then everywhere"])
    assert (biased(attention_sage, *tensors, 4, skip_reshape=True) - wanted).abs().max() < 2e-6


def test_tokens_of_another_pack_in_front_move_the_spans(tensors):
    biased = BiasedAttention([Span(5, 15, 0.3)], Layout(TEXT - 5, GRID), KIND)
    biased.lay_out(Layout(TEXT, GRID), shift=5)
    assert torch.equal(
        biased(attend, *tensors, 4, skip_reshape=True), override("one")(attend, *tensors, 4, skip_reshape=True)
    )
