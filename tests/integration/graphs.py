"""Graphs in API format, built from small parts: every function adds nodes to a `Graph` and returns links."""

from __future__ import annotations

FILES = {
    "unet_name": "flux1-krea-dev.safetensors",
    "clip_name1": "clip_l.safetensors",
    "clip_name2": "t5xxl_fp16.safetensors",
    "vae_name": "ae.safetensors",
}
TEXT_TOKENS = 16  # of a short text


class Graph(dict):
    """A prompt; `add` returns the node's id, `id, slot` is a link."""

    def add(self, class_type: str, **inputs) -> str:
        node_id = str(len(self) + 1)
        self[node_id] = {"class_type": class_type, "inputs": {name: value for name, value in inputs.items()}}
        return node_id

    def loader(self, **changes) -> str:
        return self.add("FluxKreaLoader", **{**FILES, "weight_dtype": "default", **changes})

    def text(self, clip, text: str) -> list:
        return [self.add("CLIPTextEncode", clip=clip, text=text), 0]

    def short_text(self, clip, text: str) -> list:
        """Without the 240 empty tokens that follow: the rules are the same, and an evaluation is ten times shorter."""
        return [self.add("ProbeFirstTokens", conditioning=self.text(clip, text), count=TEXT_TOKENS), 0]

    def size(self, width: int, height: int, batch_size: int = 1) -> list:
        return [
            self.add(
                "FluxKreaSize",
                preset="exact size",
                aspect_ratio="1:1",
                megapixels=1.0,
                width=width,
                height=height,
                batch_size=batch_size,
            ),
            2,
        ]

    def sampler(self, model, positive, latent_image, **changes) -> list:
        values = {
            "seed": 7,
            "steps": 2,
            "guidance": 4.5,
            "denoise": 1.0,
            "sampler_name": "euler",
            "scheduler": "krea",
            "acceleration": "none",
        }
        inputs = {"model": model, "positive": positive, "latent_image": latent_image, **values, **changes}
        return [self.add("FluxKreaSampler", **inputs), 0]

    def core_sampler(self, model, positive, negative, latent_image, guidance=4.5, **changes) -> list:
        """Core's own way to the same picture: FluxGuidance and KSampler."""
        guided = [self.add("FluxGuidance", conditioning=positive, guidance=guidance), 0]
        values = {"seed": 7, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        inputs = {"model": model, "positive": guided, "negative": negative, "latent_image": latent_image}
        return [self.add("KSampler", **{**inputs, **values, **changes}), 0]

    def picture(self, samples, vae) -> str:
        decoded = self.add("VAEDecode", samples=samples, vae=vae)
        return self.add("SaveImage", images=[decoded, 0], filename_prefix="test")
