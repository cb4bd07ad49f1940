"""What the strength of Krea Redux costs in one attention call at 1024 × 1024: 4096 + 512 + 729 tokens, 24 heads of 128.

Ours (both ways) beside the same call without any mask, and core's dense N×N mask beside it too. Time, memory, exactness.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import conftest  # noqa: F401  loads the pack
import torch
from bench._memory import extra_megabytes
from flux_krea.nodes.sampling.attention_bias import (
    Span,
    attend_by_merge,
    attend_by_rows,
    mask_pieces,
    query_biases,
    torch_kernel,
)

PROMPT, REDUX, GRID = 512, 729, (64, 64)
TEXT = PROMPT + REDUX
TOKENS = TEXT + GRID[0] * GRID[1]
HEADS, WIDTH = 24, 128
SPANS = [Span(PROMPT, TEXT, 0.3)]
PAIRS = {"cpu": 3, "cuda": 50}


def run(arguments: Iterable[str] = ()) -> Iterable[dict]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, HEADS, TOKENS, WIDTH, generator=generator).to(device, dtype) for _ in range(3))
        yield from rows(q, k, v, device, str(dtype).removeprefix("torch."))


def rows(q, k, v, device: str, dtype: str) -> Iterable[dict]:
    biases = query_biases(SPANS, TEXT, GRID, TOKENS)

    def unmasked():
        return attend(q, k, v, HEADS)

    def by_rows():  # with making the masks, which a run does once for 57 blocks
        return attend_by_rows(attend, q, k, v, HEADS, mask_pieces(SPANS, biases, q.dtype, q.device))

    def by_merge():
        return attend_by_merge(torch_kernel, q, k, v, SPANS, biases.to(q.device)).transpose(1, 2).flatten(2)

    def dense():  # with the cast that core makes for every call
        return attend(q, k, v, HEADS, mask=half_mask.to(q.dtype))

    half_mask = dense_mask(biases).to(q.device, torch.float16)
    ways = {"rows": by_rows, "merge": by_merge, "core's dense mask": dense}
    if not has_merge(q, k, v):
        del ways["merge"]
    wanted = dense()
    for name, way in ways.items():
        error = float((way().float() - wanted.float()).abs().max())
        common = {"device": device_name(device), "n": PAIRS[device]}
        yield {"bench": f"redux_strength {name}, {dtype}, beside no mask"} | paired(way, unmasked, device) | common
        extra = extra_megabytes(way, device) - extra_megabytes(unmasked, device)
        yield {
            "bench": f"redux_strength {name}, {dtype}, memory beyond no mask",
            "ours": round(extra, 1),
            "reference": round(dense_megabytes(q), 1),
            "ratio": round(extra / dense_megabytes(q), 3),
            "unit": "MB; the reference is core's N×N mask in the compute dtype",
            "difference_to_dense": error,
        } | common  # fmt: skip


def attend(q, k, v, heads, mask=None, skip_output_reshape=False):
    """ComfyUI's attention_pytorch."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def dense_mask(biases) -> torch.Tensor:
    mask = torch.zeros(1, 1, TOKENS, TOKENS)
    mask[..., PROMPT:TEXT] = biases[0][:, None]
    return mask


def dense_megabytes(q) -> float:
    return TOKENS**2 * q.element_size() / 1e6


def has_merge(q, k, v) -> bool:
    try:
        torch_kernel(q, k, v)
    except RuntimeError:  # flash attention on CUDA takes no fp32
        return False
    return True


def paired(ours: Callable, reference: Callable, device: str) -> dict:
    """Medians of pairs that run one after the other, in turn first and second, so that load hits both alike."""
    pairs = [timed_pair(ours, reference, device, swap=index % 2 == 1) for index in range(PAIRS[device])]
    return {
        "ours": round(statistics.median(pair[0] for pair in pairs), 5),
        "reference": round(statistics.median(pair[1] for pair in pairs), 5),
        "ratio": round(statistics.median(pair[0] / pair[1] for pair in pairs), 3),
        "unit": "s/call",
    }


def timed_pair(ours: Callable, reference: Callable, device: str, swap: bool) -> tuple[float, float]:
    if swap:
        return timed_pair(reference, ours, device, swap=False)[::-1]
    return timed(ours, device), timed(reference, device)


def timed(work: Callable, device: str) -> float:
    """CPU seconds of this process on the CPU, where others share the cores; wall clock on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    started = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
