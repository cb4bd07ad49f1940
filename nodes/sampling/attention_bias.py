"""Attention in which some keys count more or less than others: a log bias, without the N×N mask that core makes of it.

The bias of one span of keys is the same for all of them, so the matrix has rank one and need not exist. Two exact ways:
rows   one call for each run of queries that share a bias, with a mask [1,1,1,N]; any attention function takes that.
merge  one call without a mask for each run of keys, merged by log-sum-exp; keeps flash attention, which takes no mask.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import interpolate

QUERIES_AT_A_TIME = 512  # with a map every query has its own mask row: 11 MB in fp32 at 1024 × 1024
MASK_ALIGNMENT = 16  # torch's memory-efficient kernel copies masks whose rows start elsewhere


class Span(NamedTuple):
    """Keys `start` to `stop` of the sequence. Other queries see them `strength` times as strongly, in odds.

    `where` [1,1,H,W], 0 to 1, scales that for each place in the picture; queries without a place see its mean.
    """

    start: int
    stop: int
    strength: float = 1.0
    where: torch.Tensor | None = None


def query_biases(spans: Sequence[Span], text: int, grid: tuple[int, int], tokens: int) -> torch.Tensor:
    """Log biases [spans, tokens]: what each query adds to the logits of each span.

    A span's own queries and those of later spans see it as it is, as in core's StyleModelApply.
    """
    biases = torch.zeros(len(spans), tokens, dtype=torch.float64)  # so that a log which has an exact value gets it
    for index, span in enumerate(spans):
        weights = torch.full((tokens,), span.strength, dtype=torch.float64)
        if span.where is not None:
            weights *= span.where.mean()
            places = interpolate(span.where, grid, mode="area").flatten()
            weights[text : text + len(places)] = span.strength * places
        biases[index] = weights.log()
        for own in spans[index:]:
            biases[index, own.start : own.stop] = 0
    return biases.float()


def mask_pieces(spans: Sequence[Span], biases: torch.Tensor, dtype, device) -> list[tuple[int, torch.Tensor | None]]:
    """(number of queries, mask [1,1,1 or queries,N] or None), in the order of the queries."""
    tokens = biases.shape[1]
    columns, counts = torch.unique_consecutive(biases, dim=1, return_counts=True)
    if any(span.where is not None for span in spans):
        stretches = biases.split(QUERIES_AT_A_TIME, dim=1)
        counts = [stretch.shape[1] for stretch in stretches]
    else:
        stretches, counts = columns.split(1, dim=1), counts.tolist()
    pieces = []
    for count, stretch in zip(counts, stretches, strict=True):
        mask = None
        if stretch.any():
            width = -(-tokens // MASK_ALIGNMENT) * MASK_ALIGNMENT
            mask = torch.zeros(1, 1, stretch.shape[1], width, dtype=dtype, device=device)[..., :tokens]
            for span, bias in zip(spans, stretch, strict=True):
                mask[..., span.start : span.stop] = bias.to(mask)[:, None]
        pieces.append((count, mask))
    return pieces


def attend_by_rows(attend: Callable, q, k, v, heads: int, pieces, *, skip_output_reshape=False, **options):
    """`attend` is one of ComfyUI's attention functions; q, k, v [B,H,N,D]."""
    outputs, start = [], 0
    for count, mask in pieces:
        queries = q[:, :, start : start + count]
        outputs.append(attend(queries, k, v, heads, mask=mask, skip_output_reshape=skip_output_reshape, **options))
        start += count
    return torch.cat(outputs, dim=2 if skip_output_reshape else 1)


def attend_by_merge(q, k, v, spans: Sequence[Span], biases: torch.Tensor):
    """q, k, v [B,H,N,D] → [B,H,N,D]. `biases` [spans, N] on their device, in fp32."""
    rows = {(span.start, span.stop): bias for span, bias in zip(spans, biases, strict=True)}
    cuts = sorted({0, k.shape[2], *itertools.chain.from_iterable(rows)})
    merged = total = None
    for start, stop in itertools.pairwise(cuts):
        output, weight = attention_with_weight(q, k[:, :, start:stop], v[:, :, start:stop])
        if (start, stop) in rows:
            weight = weight + rows[start, stop]
        if merged is None:
            merged, total = output, weight
        else:
            merged = merged.lerp(output, torch.sigmoid(weight - total).unsqueeze(-1).to(output.dtype))
            total = torch.logaddexp(total, weight)
    return merged


def attention_with_weight(q, k, v) -> tuple[torch.Tensor, torch.Tensor]:
    """The output and the log-sum-exp [B,H,N] of the logits, from the kernels behind scaled_dot_product_attention."""
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    output, weight, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)
    return output, weight


class BiasedAttention:
    """ComfyUI's `optimized_attention_override` for one evaluation of FLUX; `previous` is the one that was there."""

    def __init__(self, spans: Sequence[Span], text: int, grid: tuple[int, int], previous: Callable | None):
        self.spans, self.text, self.grid, self.previous = spans, text, grid, previous
        self._pieces: dict = {}

    def __call__(self, function, q, k, v, heads, mask=None, **options):
        attend = functools.partial(self.previous, function) if self.previous else function
        if mask is not None or not self.is_own_attention(q, k, options):
            return attend(q, k, v, heads, mask=mask, **options)
        if self.previous is None and merge_is_faster(function, q):
            merged = attend_by_merge(q, k, v, self.spans, self.biases(q).to(q.device))
            return merged if options.get("skip_output_reshape") else merged.transpose(1, 2).flatten(2)
        return attend_by_rows(attend, q, k, v, heads, self.pieces(q), **options)

    def is_own_attention(self, q, k, options) -> bool:
        """FLUX's own, over text and picture: other packs call attention for things of theirs."""
        whole = self.text + self.grid[0] * self.grid[1]
        return bool(options.get("skip_reshape")) and whole <= q.shape[2] == k.shape[2]

    def biases(self, q) -> torch.Tensor:
        return query_biases(self.spans, self.text, self.grid, q.shape[2])

    def pieces(self, q) -> list:
        key = q.shape[2], q.dtype, q.device
        if key not in self._pieces:
            self._pieces[key] = mask_pieces(self.spans, self.biases(q), q.dtype, q.device)
        return self._pieces[key]


def merge_is_faster(function: Callable, q) -> bool:
    """Measured once for each shape on CUDA, where masks exclude flash attention.

    On the CPU rows win: 0.99 to 1.06 of an unmasked call against 1.03 to 1.11 (4096 + 512 + 729 tokens, fp32 and bf16).
    """
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        return False
    if getattr(function, "__name__", "") != "attention_pytorch":
        return False  # the user chose another kernel, sage or xformers: it stays
    return _merge_is_faster(function, q.shape, q.dtype, q.device)


@functools.lru_cache(maxsize=64)
def _merge_is_faster(function, shape, dtype, device) -> bool:
    q = torch.randn(shape, dtype=dtype, device=device)
    tokens = shape[2]
    spans = [Span(tokens // 10, tokens // 4, 0.5)]
    biases = query_biases(spans, tokens // 4, (1, tokens - tokens // 4), tokens)
    pieces, on_device = mask_pieces(spans, biases, dtype, device), biases.to(device)
    options = {"skip_reshape": True, "_inside_attn_wrapper": True}
    try:
        merge = seconds(lambda: attend_by_merge(q, q, q, spans, on_device), device)
    except RuntimeError:  # no flash attention in this build, or not for this shape
        return False
    return merge < seconds(lambda: attend_by_rows(function, q, q, q, shape[1], pieces, **options), device)


def seconds(work: Callable, device, repeats: int = 3) -> float:
    """The fastest of a few runs, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
