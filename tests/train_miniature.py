"""Trains the miniature: FLUX.1's own key layout, 128 wide with one head, on the scenes of scenes.py.

    python dev.py test --collect-only -q      # once: makes .venv and downloads ComfyUI
    .venv/bin/python tests/train_miniature.py --out FILE [--steps 2400] [--threads 2]

Two stages. First rectified flow as FLUX trains it: x_t = (1 - t) x + t noise, target noise - x, t a shifted logit-normal,
the text left out at times. Then distilled guidance: a copy learns to give, when it is fed guidance w, what classifier-free
guidance w gives. What is written is the average of the weights over the last steps. Seeded: the same steps on the same
machine and number of threads give the same file. The loss, and the score on prompts never trained on, are in the output.

The forward pass is written out here because ComfyUI's blocks add in place, which autograd refuses. The latents are those
of the hand-built VAE (miniature.py): three of sixteen channels carry the colours. The others are neither read nor predicted,
so they keep the noise they began with, and the VAE does not look at them.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from pathlib import Path

import miniature
import numpy
import scenes
import torch
import torch.nn.functional as F
from comfyui import COMFYUI, ROOT
from safetensors.torch import load_file, save_file
from transformers import T5TokenizerFast

VERSION = "1"
HIDDEN, DOUBLE, SINGLE = 128, 1, 4
LIVE = 3  # channels of the latent that carry something
TEXT = 22  # the longest prompt and some padding; the rest of the padding counts as one token many times
PAD, END, FULL_TEXT = 0, 1, 256
WINDOW = 4  # how far back a word of the miniature T5 sees
GUIDANCE = (1.0, 8.0)
SMALL, LARGE = (8, 12, 8, 12, 16, 12), (16, 32, 12, 16, 32, 16)  # sides of the latents, step after step, in either half


# --- words ----------------------------------------------------------------------------------------------------------


class Words:
    """Outputs of the miniature T5, one row for each word with the four before it: the output depends on nothing else."""

    def __init__(self, folder: Path):
        layout = miniature.t5_layout(2, heads=2, feed_forward=128)
        path = miniature.write_safetensors(folder / "t5xxl_fp16.safetensors", layout)
        self.weights = load_file(path)
        self.tokenizer = T5TokenizerFast.from_pretrained(str(COMFYUI / "comfy" / "text_encoders" / "t5_tokenizer"))
        self.rows: dict[tuple, int] = {}
        self.table = torch.empty(0, 4096)

    def of(self, prompts: list[str]) -> torch.Tensor:
        """Row numbers [prompts, TEXT] into `table`, which grows by what is new."""
        contexts = []
        for tokens in self.tokenizer(prompts)["input_ids"]:
            padded = [None] * WINDOW + tokens + [PAD] * (TEXT - len(tokens))
            if len(padded) != WINDOW + TEXT:
                raise ValueError(f"{len(tokens)} tokens in a prompt, at most {TEXT} are trained on")
            contexts.append([tuple(padded[i : i + WINDOW + 1]) for i in range(TEXT)])
        fresh = list({context: 0 for line in contexts for context in line if context not in self.rows})
        parts = [self.encoded(fresh[start : start + 64]) for start in range(0, len(fresh), 64)]
        self.table = torch.cat([self.table, *parts])
        self.rows |= {context: len(self.rows) + i for i, context in enumerate(fresh)}
        return torch.tensor([[self.rows[context] for context in line] for line in contexts])

    @torch.no_grad()
    def encoded(self, contexts: list[tuple]) -> torch.Tensor:
        """The last word's output for each context. None stands for what lies before the beginning."""
        known = torch.tensor([[token is not None for token in context] for context in contexts])
        x = self.weights["shared.weight"][torch.tensor([[token or 0 for token in c] for c in contexts])].float()
        for layer in range(2):
            x = x + self.attention(f"encoder.block.{layer}.layer.0", x, known)
            block = f"encoder.block.{layer}.layer.1"
            y = rms(x, self.weights[f"{block}.layer_norm.weight"])
            names = (f"{block}.DenseReluDense.{name}.weight" for name in ("wi_0", "wi_1", "wo"))
            gate, value, out = (self.weights[name].float() for name in names)
            x = x + (F.gelu(y @ gate.T, approximate="tanh") * (y @ value.T)) @ out.T
        return rms(x[:, -1], self.weights["encoder.final_layer_norm.weight"])

    def attention(self, layer: str, x: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Each head takes one word back, or the word itself where nothing stands there."""
        y = rms(x, self.weights[f"{layer}.layer_norm.weight"])
        value = y @ self.weights[f"{layer}.SelfAttention.v.weight"].float().T
        heads = []
        for head, own in enumerate(value.chunk(2, -1)):
            back = head + 1
            before = torch.cat([own[:, :back], own[:, :-back]], 1)
            there = torch.cat([torch.zeros_like(known[:, :back]), known[:, :-back]], 1)
            heads.append(torch.where(there[..., None], before, own))
        return torch.cat(heads, -1) @ self.weights[f"{layer}.SelfAttention.o.weight"].float().T


def rms(x: torch.Tensor, scale: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * scale.float()


# --- scenes ---------------------------------------------------------------------------------------------------------


class Batches:
    """Endless batches of live latents [B, 3, side, side] and text rows [B, TEXT], from a pool of scenes; none held out."""

    def __init__(self, words: Words, seed: int, pool: int):
        self.chance = random.Random(seed)
        self.numbers = numpy.random.default_rng(seed)
        self.scenes = [self.scene() for _ in range(pool)]
        self.rows = words.of([self.phrased(scene) for scene in self.scenes])
        self.nothing = words.of([""])[0]

    def next(self, count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        picked = self.chance.sample(range(len(self.scenes)), count)
        drawn = numpy.stack([self.latent(self.scenes[i], side) for i in picked])
        told = torch.rand(count) > 0.1  # one time in ten without words
        return torch.from_numpy(drawn), torch.where(told[:, None], self.rows[picked], self.nothing)

    def scene(self) -> scenes.Scene:
        while True:
            things = 1 + (self.chance.random() < 0.55)
            scene = scenes.any_scene(self.chance, things, placed=self.chance.random() < 0.85)
            if not scene.held_out:
                return scene

    def phrased(self, scene: scenes.Scene) -> str:
        return scene.prompt if self.chance.random() < 0.8 else "A" + scene.prompt[1:]

    def latent(self, scene: scenes.Scene, side: int, fine: int = 4) -> numpy.ndarray:
        """Each thing a little larger or smaller and a little off its place."""
        ground = numpy.array(scenes.COLOURS[scene.background][0], numpy.float32)
        cube = numpy.empty((3, side, side), numpy.float32)
        cube[:] = ground[:, None, None]
        for thing in scene.things:
            left, top = numpy.array(thing.place) + self.numbers.uniform(-0.025, 0.025, 2)
            half = thing.across / 2 * self.numbers.uniform(0.95, 1.05)
            (x0, x1), (y0, y1) = ((int((at - half) * side), math.ceil((at + half) * side)) for at in (left, top))
            x = (x0 + (numpy.arange((x1 - x0) * fine) + 0.5) / fine) / side
            y = (y0 + (numpy.arange((y1 - y0) * fine) + 0.5) / fine) / side
            mask = scenes.inside(thing.shape, (x[None, :] - left) / half, (y[:, None] - top) / half)
            cover = mask.reshape(y1 - y0, fine, x1 - x0, fine).mean((1, 3), dtype=numpy.float32)
            change = numpy.array(scenes.COLOURS[thing.colour][0], numpy.float32) - ground
            cube[:, y0:y1, x0:x1] += change[:, None, None] * cover
        return miniature.LATENT_GAIN * (cube - 0.5)


def patches(latent: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] as tokens [B, H/2 · W/2, C · 4], in FLUX's order."""
    b, c, h, w = latent.shape
    return latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def latents(tokens: torch.Tensor, side: int) -> torch.Tensor:
    b, n, c = tokens.shape
    return tokens.view(b, side // 2, side // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, side, side)


# --- the network ----------------------------------------------------------------------------------------------------


class Network(torch.nn.Module):
    """FLUX without its in-place additions; parameters under FLUX's keys, with "/" for "."."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shapes = miniature.flux_layout(DOUBLE, SINGLE, hidden=HIDDEN)
        self.weights = torch.nn.ParameterDict()
        for key, (_, shape) in shapes.items():
            if key.endswith("norm.scale"):
                value = torch.ones(shape)
            elif key.endswith("bias") or "mod" in key or key.startswith(("final_layer", "vector_in.out")):
                value = torch.zeros(shape)
            else:
                value = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
            self.weights[key.replace(".", "/")] = torch.nn.Parameter(value)
        self["img_in.weight"].data[:, LIVE * 4 :] = 0
        self["img_in.weight"].data.mul_(2)

    def read(self, path: Path) -> None:
        for key, value in load_file(path).items():
            self[key].data.copy_(value)

    @torch.no_grad()
    def forget_guidance(self) -> None:
        """Every guidance does what guidance 1 does: the only one seen so far."""
        told = self.embedded("guidance_in", waves(torch.ones(1)))[0]
        self["guidance_in.out_layer.weight"].data.zero_()
        self["guidance_in.out_layer.bias"].data.copy_(told)

    def __getitem__(self, key: str) -> torch.nn.Parameter:
        return self.weights[key.replace(".", "/")]

    def linear(self, key: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self[f"{key}.weight"], self[f"{key}.bias"])

    def embedded(self, key: str, x: torch.Tensor) -> torch.Tensor:
        return self.linear(f"{key}.out_layer", F.silu(self.linear(f"{key}.in_layer", x)))

    def modulation(self, key: str, vec: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        return self.linear(key, F.silu(vec))[:, None].chunk(count, -1)

    def forward(self, img, txt, t, guidance, mask, rope):
        """Live patches [B, N, 12], text [B, TEXT, 4096], t and guidance [B], mask added to the scores; the velocity."""
        x = F.linear(img, self["img_in.weight"][:, : LIVE * 4], self["img_in.bias"])
        txt = self.linear("txt_in", txt)
        vec = self.embedded("time_in", waves(t)) + self.embedded("guidance_in", waves(guidance))
        vec = vec + self["vector_in.out_layer.bias"]
        for i in range(DOUBLE):
            x, txt = self.double(f"double_blocks.{i}", x, txt, vec, mask, rope)
        x = torch.cat([txt, x], 1)
        for i in range(SINGLE):
            x = self.single(f"single_blocks.{i}", x, vec, mask, rope)
        shift, scale = self.modulation("final_layer.adaLN_modulation.1", vec, 2)
        x = norm(x[:, txt.shape[1] :]) * (1 + scale) + shift
        return F.linear(x, self["final_layer.linear.weight"][: LIVE * 4], self["final_layer.linear.bias"][: LIVE * 4])

    def double(self, block, img, txt, vec, mask, rope):
        img_mod = self.modulation(f"{block}.img_mod.lin", vec, 6)
        txt_mod = self.modulation(f"{block}.txt_mod.lin", vec, 6)
        parts = []
        for stream, x, mod in (("txt", txt, txt_mod), ("img", img, img_mod)):
            qkv = self.linear(f"{block}.{stream}_attn.qkv", norm(x) * (1 + mod[1]) + mod[0])
            parts.append(self.heads(f"{block}.{stream}_attn.norm", qkv))
        out = attention(*(torch.cat(pair, 2) for pair in zip(*parts, strict=True)), mask, rope)
        done = []
        for stream, x, mod, own in (
            ("img", img, img_mod, out[:, txt.shape[1] :]),
            ("txt", txt, txt_mod, out[:, : txt.shape[1]]),
        ):
            x = x + mod[2] * self.linear(f"{block}.{stream}_attn.proj", own)
            y = self.linear(f"{block}.{stream}_mlp.0", norm(x) * (1 + mod[4]) + mod[3])
            done.append(x + mod[5] * self.linear(f"{block}.{stream}_mlp.2", F.gelu(y)))
        return done

    def single(self, block, x, vec, mask, rope):
        shift, scale, gate = self.modulation(f"{block}.modulation.lin", vec, 3)
        qkv, y = self.linear(f"{block}.linear1", norm(x) * (1 + scale) + shift).split([3 * HIDDEN, 4 * HIDDEN], -1)
        out = attention(*self.heads(f"{block}.norm", qkv), mask, rope)
        return x + gate * self.linear(f"{block}.linear2", torch.cat([out, F.gelu(y)], -1))

    def heads(self, key, qkv):
        q, k, v = qkv[:, None].chunk(3, -1)
        return rms(q, self[f"{key}.query_norm.scale"]), rms(k, self[f"{key}.key_norm.scale"]), v


def norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def attention(q, k, v, mask, rope):
    cos, sin = rope
    turned = (x * cos + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * sin for x in (q, k))
    return F.scaled_dot_product_attention(*turned, v, attn_mask=mask)[:, 0]


def waves(t: torch.Tensor) -> torch.Tensor:
    angles = 1000 * t[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    return torch.cat([angles.cos(), angles.sin()], -1)


def rope_of(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and signed sine [1, 1, tokens, 128] for text, then side/2 × side/2 patches: axes of 16, 56 and 56."""
    places = torch.arange(side // 2, dtype=torch.float64)
    y, x = torch.meshgrid(places, places, indexing="ij")
    ids = torch.stack([torch.zeros_like(x), y, x], -1).view(-1, 3)
    ids = torch.cat([torch.zeros(TEXT, 3, dtype=torch.float64), ids])
    turns = [
        ids[:, i, None] / 10000 ** (torch.arange(0, d, 2, dtype=torch.float64) / d) for i, d in enumerate((16, 56, 56))
    ]
    angles = torch.cat(turns, -1).repeat_interleave(2, -1)
    signs = torch.tensor([-1.0, 1.0]).repeat(64)
    return angles.cos().float()[None, None], (angles.sin() * signs).float()[None, None]


def padding_mask(rows: torch.Tensor, pad_row: int, side: int, lengths: torch.Tensor) -> torch.Tensor:
    """Added to the attention's scores. Of each text's bulk padding one token stays, which counts as often as it stands."""
    bulk = rows == pad_row
    first = bulk & (bulk.cumsum(1) == 1)
    count = (lengths[:, None] - TEXT + bulk.sum(1, keepdim=True)).clamp(min=0).float()
    scores = torch.zeros(rows.shape).masked_fill(bulk, -math.inf)
    scores = torch.where(first, count.log(), scores)
    return F.pad(scores, (0, side * side // 4))[:, None, None]


# --- training -------------------------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal, for square blocks of weight matrices (Jordan 2024), and Adam for the rest."""

    def __init__(self, network: Network, rate: float):
        matrices, rest = [], []
        for key, weight in network.weights.items():
            inner = "blocks" in key and key.endswith("weight") and "mod" not in key
            (matrices if inner else rest).append(weight)
        self.adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.97), weight_decay=0.0)
        super().__init__(matrices, {"lr": rate})
        self.base = rate

    @torch.no_grad()
    def step(self, share: float):
        """`share` of the learning rate."""
        for group in self.adam.param_groups:
            group["lr"] = self.base * share
        self.adam.step()
        weights = self.param_groups[0]["params"]
        steps = []
        for weight in weights:
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            momentum.lerp_(weight.grad, 0.05)
            steps.append(squares(weight.grad.lerp(momentum, 0.95)))
        straight = orthogonal(torch.cat(steps))
        for weight, part in zip(weights, straight.split([len(s) for s in steps]), strict=True):
            weight.mul_(1 - self.base * share * 0.01).sub_(unsquares(part, weight.shape), alpha=self.base * share * 5)

    def zero_grad(self):
        super().zero_grad()
        self.adam.zero_grad()


def squares(matrix: torch.Tensor) -> torch.Tensor:
    rows, columns = matrix.shape
    return matrix.view(rows // HIDDEN, HIDDEN, columns // HIDDEN, HIDDEN).transpose(1, 2).reshape(-1, HIDDEN, HIDDEN)


def unsquares(blocks: torch.Tensor, shape) -> torch.Tensor:
    rows, columns = shape
    return blocks.view(rows // HIDDEN, columns // HIDDEN, HIDDEN, HIDDEN).transpose(1, 2).reshape(shape)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix of each, roughly: five Newton-Schulz steps."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


class Average:
    """The weights' running average, which forgets slower as training goes on."""

    def __init__(self, network: Network):
        self.network, self.count = copy.deepcopy(network), 0

    @torch.no_grad()
    def add(self, network: Network, longest: float = 0.997) -> None:
        self.count += 1
        keep = min(longest, self.count / (self.count + 9))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - keep)


def noise_levels(count: int, side: int) -> torch.Tensor:
    """Shifted logit-normal, as the reference trains, with a tenth spread evenly."""
    shift = math.exp(0.5 + 0.65 * (side * side / 4 - 256) / 3840 + 0.3)
    t = torch.sigmoid(torch.randn(count) * 1.1)
    t = shift * t / (1 + (shift - 1) * t)
    return torch.where(torch.rand(count) < 0.1, torch.rand(count), t)


class Trainer:
    def __init__(self, options):
        self.options = options
        torch.manual_seed(options.seed)
        self.words = Words(ROOT / ".dev" / "training")
        self.pad_row = int(self.words.of([""])[0, -1])
        self.batches = Batches(self.words, options.seed, options.pool)
        self.ropes = {side: rope_of(side) for side in {*SMALL, *LARGE}}
        self.network = Network(options.seed)
        if options.start:
            self.network.read(options.start)
        self.average = Average(self.network)

    def batch(self, step: int, sides: tuple[int, ...] = LARGE):
        """Pictures of several sizes in turn; of those of 256 px a quarter as many, which is as much work."""
        side = sides[step % len(sides)]
        count = self.options.batch // (4 if side == 32 else 1)
        clean, rows = self.batches.next(count, side)
        lengths = torch.where(torch.rand(count) < 0.75, FULL_TEXT, torch.randint(TEXT, 64, (count,)))
        x = patches(clean)
        noise, t = torch.randn_like(x), noise_levels(count, side)
        mixed = x + t[:, None, None] * (noise - x)
        mask = padding_mask(rows, self.pad_row, side, lengths)
        return side, x, noise, t, mixed, rows, mask

    def flow(self, steps: int) -> None:
        optimizer, began, losses = Muon(self.network, self.options.rate), time.monotonic(), []
        done = 0.0
        for step in range(steps):
            side, x, noise, t, mixed, rows, mask = self.batch(
                step, SMALL if done < 0.5 and not self.options.start else LARGE
            )
            ones = torch.ones(len(t))
            guess = self.network(mixed, self.words.table[rows], t, ones, mask, self.ropes[side])
            loss = F.mse_loss(guess, noise - x)
            done = max(step / steps, (time.monotonic() - began) / 60 / self.options.minutes)
            if done >= 1:
                break
            self.update(optimizer, loss, step, done)
            losses.append(loss.item())
            self.say("flow", step, steps, losses, began)

    def update(self, optimizer: Muon, loss: torch.Tensor, step: int, done: float) -> None:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        optimizer.step(min(1.0, (step + 1) / 50, 2 * (1 - done)))
        self.average.add(self.network)

    def guide(self, steps: int) -> None:
        """The network learns from its own average what guidance gives, and keeps what it knew at guidance 1."""
        teacher = copy.deepcopy(self.average.network)
        self.network.load_state_dict(teacher.state_dict())
        self.network.forget_guidance()
        self.average = Average(self.network)
        optimizer, began, losses = Muon(self.network, 1.5e-3), time.monotonic(), []
        nothing = self.words.of([""])
        for step in range(steps):
            side, x, noise, t, mixed, rows, mask = self.batch(step)
            w = GUIDANCE[0] + (GUIDANCE[1] - GUIDANCE[0]) * torch.rand(len(t)) ** 1.5
            with torch.no_grad():
                ones, empty = torch.ones(len(t)), nothing.expand_as(rows)
                told = teacher(mixed, self.words.table[rows], t, ones, mask, self.ropes[side])
                bare_mask = padding_mask(empty, self.pad_row, side, torch.full((len(t),), FULL_TEXT))
                free = teacher(mixed, self.words.table[empty], t, ones, bare_mask, self.ropes[side])
                target = free + w[:, None, None] * (told - free)
            guess = self.network(mixed, self.words.table[rows], t, w, mask, self.ropes[side])
            loss = ((guess - target) / w[:, None, None]).square().mean()
            self.update(optimizer, loss, step, step / steps)
            losses.append(loss.item())
            self.say("guidance", step, steps, losses, began)

    def say(self, stage: str, step: int, steps: int, losses: list[float], began: float) -> None:
        if (step + 1) % 50 and step + 1 != steps:
            return
        recent = sum(losses[-50:]) / len(losses[-50:])
        print(f"{stage} {step + 1}/{steps} loss {recent:.4f} {time.monotonic() - began:.0f} s", flush=True)
        if (step + 1) % self.options.save_every == 0 or step + 1 == steps:
            how = {"cfg": 3.0} if stage == "flow" else {"guidance": 3.0}
            print(f"{stage} {step + 1}/{steps} {how} score {self.score(32, **how)}", flush=True)
            self.save(self.options.out)

    def save(self, path: Path) -> None:
        weights = {key.replace("/", "."): value.detach() for key, value in self.average.network.weights.items()}
        about = {"script": f"train_miniature.py {VERSION}", "seed": str(self.options.seed), "license": "Apache-2.0"}
        save_file({key: value.bfloat16().contiguous() for key, value in weights.items()}, str(path), about)

    @torch.no_grad()
    def score(self, count: int, side: int = 16, steps: int = 8, guidance: float = 1.0, cfg: float = 1.0) -> str:
        """How many of the held-out prompts are met, drawn by Euler steps of the reference's schedule."""
        wanted = scenes.held_out_scenes(count)
        rows = self.words.of([scene.prompt for scene in wanted])
        full = torch.full((count,), FULL_TEXT)
        x = torch.randn(count, side * side // 4, LIVE * 4, generator=torch.Generator().manual_seed(1))
        shift = math.exp(0.5)
        levels = [shift / (shift + steps / (steps - i) - 1) if i < steps else 0.0 for i in range(steps + 1)]
        mask = padding_mask(rows, self.pad_row, side, full)
        bare = self.words.of([""]).expand_as(rows)
        bare_mask = padding_mask(bare, self.pad_row, side, full)
        network, rope = self.average.network, self.ropes[side]
        for now, then in zip(levels, levels[1:], strict=False):
            t, g = torch.full((count,), now), torch.full((count,), guidance)
            v = network(x, self.words.table[rows], t, g, mask, rope)
            if cfg != 1:
                free = network(x, self.words.table[bare], t, g, bare_mask, rope)
                v = free + cfg * (v - free)
            x = x + (then - now) * v
        cubes = latents(x, side).permute(0, 2, 3, 1).numpy() / miniature.LATENT_GAIN + 0.5
        results = [scenes.score(picture_of(cube, 128), scene) for cube, scene in zip(cubes, wanted, strict=True)]
        names = ("background", "count", "colour", "shape", "place", "met")
        return " ".join(f"{name} {sum(getattr(r, name) for r in results)}" for name in names) + f" of {count}"


def picture_of(cube: numpy.ndarray, side: int) -> numpy.ndarray:
    """About what the hand-built VAE makes of the latent."""
    smooth = F.interpolate(torch.from_numpy(cube).permute(2, 0, 1)[None], size=(side, side), mode="bilinear")[0]
    return scenes.shown(((smooth.permute(1, 2, 0) - 0.5) * 4 + 0.5).clamp(0, 1).numpy())


def main() -> None:
    parser = argparse.ArgumentParser("train_miniature")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--guidance-steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=48, help="pictures of 128 px in a step")
    parser.add_argument("--minutes", type=float, default=120, help="ends the first stage then, if not done before")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--pool", type=int, default=12000, help="scenes to draw from, each drawn anew every time")
    parser.add_argument("--start", type=Path, help="a file of an earlier run to go on from")
    parser.add_argument("--rate", type=float, default=4e-3, help="the first stage's highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    trainer.flow(options.steps)
    trainer.guide(options.guidance_steps)
    for guidance in (1.0, 2.0, 4.0, 8.0):
        print(f"guidance {guidance}: {trainer.score(200, guidance=guidance)}", flush=True)
    print(f"256 px: {trainer.score(100, side=32, guidance=3.0)}", flush=True)


if __name__ == "__main__":
    main()
