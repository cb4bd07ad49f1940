"""Attention in which some keys count more or less than others: a log bias, without the N×N mask that core makes of it.

The bias of one span of keys is the same for all of them, so the matrix has rank one and need not exist. Two exact ways:
rows   one call for each run of queries that share a bias, with a mask [1,1,1,N]; for attention that takes a mask.
merge  one call without a mask for each run of keys, merged by log-sum-exp; for sage and flash, which take none.

ComfyUI is imported where it is asked, so that the arithmetic can be tested without it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import interpolate
from torch.utils.weak import WeakIdKeyDictionary

QUERIES_AT_A_TIME = 512  # with a map every query has its own mask row: 11 MB in fp32 at 1024 × 1024
MASK_ALIGNMENT = 16  # torch's memory-efficient kernel copies masks whose rows start elsewhere

Pieces = list[tuple[int, "torch.Tensor | None"]]


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


def mask_pieces(spans: Sequence[Span], biases: torch.Tensor, dtype: torch.dtype, device: torch.device | str) -> Pieces:
    """(number of queries, mask [1,1,1 or queries,N] or None), in the order of the queries."""
    tokens = biases.shape[1]
    columns, counts = torch.unique_consecutive(biases, dim=1, return_counts=True)
    if any(span.where is not None for span in spans):
        stretches = biases.split(QUERIES_AT_A_TIME, dim=1)
        counts = [stretch.shape[1] for stretch in stretches]
    else:
        stretches, counts = columns.split(1, dim=1), counts.tolist()
    pieces: Pieces = []
    for count, stretch in zip(counts, stretches, strict=True):
        mask = None
        if stretch.any():
            width = -(-tokens // MASK_ALIGNMENT) * MASK_ALIGNMENT
            mask = torch.zeros(1, 1, stretch.shape[1], width, dtype=dtype, device=device)[..., :tokens]
            for span, bias in zip(spans, stretch, strict=True):
                mask[..., span.start : span.stop] = bias.to(mask)[:, None]
        pieces.append((count, mask))
    return pieces


def dense_mask(
    spans: Sequence[Span], biases: torch.Tensor, dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    """Core's own form of the same biases, [1,N,N]: for a forward pass that knows nothing of attention overrides."""
    mask = torch.zeros(1, biases.shape[1], biases.shape[1], dtype=dtype, device=device)
    for span, bias in zip(spans, biases, strict=True):
        mask[0, :, span.start : span.stop] = bias.to(mask)[:, None]
    return mask


def attend_by_rows(
    attend: Callable, q, k, v, heads: int, pieces: Pieces, *, masked: Callable | None = None,
    skip_output_reshape: bool = False, **options,
) -> torch.Tensor:  # fmt: skip
    """`attend` is one of ComfyUI's attention functions; q, k, v [B,H,N,D]. `masked` takes its place where a mask is."""
    outputs, start = [], 0
    for count, mask in pieces:
        queries = q[:, :, start : start + count]
        call = attend if mask is None or masked is None else masked
        outputs.append(call(queries, k, v, heads, mask=mask, skip_output_reshape=skip_output_reshape, **options))
        start += count
    return torch.cat(outputs, dim=2 if skip_output_reshape else 1)


def attend_by_merge(kernel: Callable, q, k, v, spans: Sequence[Span], biases: torch.Tensor) -> torch.Tensor:
    """q, k, v [B,H,N,D] → [B,H,N,D]. `biases` [spans, N] on their device, in fp32.

    `kernel(q, k, v)` gives the output and the log-sum-exp [B,H,N] of its logits.
    """
    rows = {(span.start, span.stop): bias for span, bias in zip(spans, biases, strict=True)}
    cuts = sorted({0, k.shape[2], *itertools.chain.from_iterable(rows)})
    merged = total = None
    for start, stop in itertools.pairwise(cuts):
        output, weight = kernel(q, k[:, :, start:stop], v[:, :, start:stop])
        if (start, stop) in rows:
            weight = weight + rows[start, stop]
        if merged is None:
            merged, total = output, weight
        else:
            merged = merged.lerp(output, torch.sigmoid(weight - total).unsqueeze(-1).to(output.dtype))
            total = torch.logaddexp(total, weight)
    return merged


# --- kernels that tell the log-sum-exp of their logits --------------------------------------------------------------


def torch_kernel(q, k, v) -> tuple[torch.Tensor, torch.Tensor]:
    """The flash attention behind scaled_dot_product_attention."""
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    output, weight, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)
    return output, weight


def sage_kernel(q, k, v) -> tuple[torch.Tensor, torch.Tensor]:
    import sageattention

    output, weight = sageattention.sageattn(q, k, v, tensor_layout="HND", is_causal=False, return_lse=True)
    return output, weight


def flash_kernel(q, k, v) -> tuple[torch.Tensor, torch.Tensor]:
    import flash_attn

    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    output, weight, _ = flash_attn.flash_attn_func(q, k, v, return_attn_probs=True)
    return output.transpose(1, 2), weight


KERNELS = {"attention_sage": sage_kernel, "attention_flash": flash_kernel}  # by the name of ComfyUI's function


# --- which way, for the attention that the user has chosen ----------------------------------------------------------


class Way(NamedTuple):
    """How one attention function is given a bias: merged from `kernel`, else by rows, with `masked` for those of them
    that have a mask (None: the function itself)."""

    kernel: Callable | None = None
    masked: Callable | None = None


class Kind(NamedTuple):
    """What the queries, keys and values are: [batch, heads, N, width]."""

    batch: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device


def way_for(function: Callable, previous: Callable | None, tokens: int, kind: Kind) -> Way:
    """`function` is ComfyUI's, `previous` the override of another pack."""
    attend = functools.partial(previous, function) if previous else function
    name = getattr(function, "__name__", "")
    if previous is None and name == "attention_pytorch":
        return Way(torch_kernel) if merge_is_faster(function, tokens, kind) else Way()
    if previous is None and name in KERNELS:
        is_able = answer(_tells_weights, KERNELS[name], KERNELS[name], kind)
        return Way(KERNELS[name]) if is_able else Way(masked=pytorch_attention)
    return Way() if answer(_honours_masks, previous or function, attend, kind) else Way(masked=pytorch_attention)


def honours_masks(function: Callable, kind: Kind) -> bool:
    """Whether one of ComfyUI's attention functions counts a mask at all."""
    return answer(_honours_masks, function, function, kind)


def pytorch_attention(q, k, v, heads: int, **options) -> torch.Tensor:
    """ComfyUI's attention_pytorch, below any override."""
    from comfy.ldm.modules.attention import attention_pytorch

    return getattr(attention_pytorch, "__wrapped__", attention_pytorch)(q, k, v, heads, **options)


def core_attention() -> Callable:
    """The function that ComfyUI hands to an override for FLUX: the user's choice at the start, without its wrapper."""
    from comfy.ldm.flux import math

    function = math.optimized_attention
    return getattr(function, "__wrapped__", function)


def answer(question: Callable, owner: Callable, function: Callable, kind: Kind) -> bool:
    """Asks about `function` with small tensors; once, as long as `owner` lives, for each width, dtype and device."""
    answers = _answers.setdefault(owner, {})
    key = question, kind.width, kind.dtype, kind.device
    if key not in answers:
        generator = torch.Generator().manual_seed(0)
        sample = [torch.randn(1, 2, 256, kind.width, generator=generator) for _ in range(3)]
        answers[key] = question(function, *(tensor.to(kind.device, kind.dtype) for tensor in sample))
    return answers[key]


_answers = WeakIdKeyDictionary()


def _tells_weights(kernel: Callable, q, k, v) -> bool:
    """Whether this installation of sage or flash runs here and returns a true log-sum-exp."""
    try:
        output, weight = kernel(q, k, v)
        wanted = (q.float() @ k.float().mT / q.shape[-1] ** 0.5).logsumexp(-1)
    except Exception as error:  # whatever a foreign library raises: an old version, a GPU it does not know, fp32
        logging.warning("Krea Redux: %s cannot tell its weights (%s), so PyTorch attends.", kernel.__name__, error)
        return False
    return output.shape == q.shape and weight.shape == wanted.shape and bool((weight - wanted).abs().max() < 0.1)


def _honours_masks(attend: Callable, q, k, v) -> bool:
    """Whether a mask changes anything: the released `sageattn` takes one and ignores it."""
    mask = torch.zeros(1, 1, 1, k.shape[2], dtype=q.dtype, device=q.device)
    mask[..., : k.shape[2] // 2] = -20.0
    options = {"skip_reshape": True, "skip_output_reshape": True, "_inside_attn_wrapper": True}
    try:
        masked, plain = (attend(q, k, v, q.shape[1], mask=given, **options) for given in (mask, None))
        wanted, unmasked = (pytorch_attention(q, k, v, q.shape[1], mask=given, **options) for given in (mask, None))
    except Exception as error:  # whatever a foreign function raises
        logging.warning("Krea Redux: this attention fails with a mask (%s), so PyTorch attends there.", error)
        return False
    if (masked - plain).norm() > 0.1 * (wanted - unmasked).norm():
        return True
    logging.warning("Krea Redux: this attention ignores masks, so PyTorch attends where a strength is not 1.")
    return False


def merge_is_faster(function: Callable, tokens: int, kind: Kind) -> bool:
    """Measured once for each shape on CUDA, where masks exclude flash attention.

    On the CPU rows win: 0.99 to 1.06 of an unmasked call against 1.03 to 1.11 (4096 + 512 + 729 tokens, fp32 and bf16).
    """
    if kind.device.type != "cuda" or kind.dtype not in (torch.float16, torch.bfloat16):
        return False
    return _merge_is_faster(function, tokens, kind)


@functools.lru_cache(maxsize=64)
def _merge_is_faster(function: Callable, tokens: int, kind: Kind) -> bool:
    dtype, device = kind.dtype, kind.device
    q = torch.randn(kind.batch, kind.heads, tokens, kind.width, dtype=dtype, device=device)
    spans = [Span(tokens // 10, tokens // 4, 0.5)]
    biases = query_biases(spans, tokens // 4, (1, tokens - tokens // 4), tokens)
    pieces, on_device = mask_pieces(spans, biases, dtype, device), biases.to(device)
    options: dict[str, Any] = {"skip_reshape": True, "_inside_attn_wrapper": True}
    try:
        merge = seconds(lambda: attend_by_merge(torch_kernel, q, q, q, spans, on_device), device)
    except RuntimeError:  # no flash attention in this build, or not for this shape
        return False
    return merge < seconds(lambda: attend_by_rows(function, q, q, q, kind.heads, pieces, **options), device)


def seconds(work: Callable, device: torch.device, repeats: int = 3) -> float:
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


# --- the override ---------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """The sequence of one evaluation of FLUX: `text` tokens, then rows × columns of `grid`, then `references`."""

    text: int
    grid: tuple[int, int]
    references: int = 0

    @property
    def tokens(self) -> int:
        return self.text + self.grid[0] * self.grid[1] + self.references


class BiasedAttention:
    """ComfyUI's `optimized_attention_override` for one evaluation of FLUX.

    Everything is made here, once for all blocks and outside of what torch.compile traces.
    """

    def __init__(self, spans: Sequence[Span], layout: Layout, kind: Kind, previous: Callable | None = None):
        self.spans, self.kind, self.previous = tuple(spans), kind, previous
        self.was_applied = False
        self.lay_out(layout)

    def lay_out(self, layout: Layout, shift: int = 0) -> None:
        """Makes the biases for this sequence; the spans lie `shift` tokens further back than they were said to."""
        self.layout, self.shift = layout, shift
        self.placed = [span._replace(start=span.start + shift, stop=span.stop + shift) for span in self.spans]
        biases = query_biases(self.placed, layout.text, layout.grid, layout.tokens)
        self.way = way_for(core_attention(), self.previous, layout.tokens, self.kind)
        self.biases = self.pieces = None
        if self.way.kernel:
            self.biases = biases.to(self.kind.device)
        else:
            self.pieces = mask_pieces(self.placed, biases, self.kind.dtype, self.kind.device)

    def __call__(self, function: Callable, q, k, v, heads: int, mask=None, **options) -> torch.Tensor:
        attend = functools.partial(self.previous, function) if self.previous else function
        if mask is not None or not self.is_own_attention(q, k, options):
            return attend(q, k, v, heads, mask=mask, **options)
        if (q.dtype, q.device) != (self.kind.dtype, self.kind.device):  # a pack that computes otherwise than it says
            self.kind = self.kind._replace(dtype=q.dtype, device=q.device)
            self.lay_out(self.layout, self.shift)
        self.was_applied = True
        if self.way.kernel:
            merged = attend_by_merge(self.way.kernel, q, k, v, self.placed, self.biases)
            return merged if options.get("skip_output_reshape") else merged.transpose(1, 2).flatten(2)
        return attend_by_rows(attend, q, k, v, heads, self.pieces or [], masked=self.way.masked, **options)

    def is_own_attention(self, q, k, options: dict) -> bool:
        """FLUX's own, over text and picture: other packs call attention for things of theirs."""
        return bool(options.get("skip_reshape")) and q.shape[2] == k.shape[2] == self.layout.tokens
