"""Many prompts in one batch, so that a real sampler draws many scenes at once."""

import torch


class ProbePrompts:
    """One conditioning of a batch, a prompt a line. The padding ends after `tokens`: the miniature T5 does not look at it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "encode", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"clip": ("CLIP",), "text": ("STRING", {"multiline": True}), "tokens": ("INT", {})}}

    def encode(self, clip, text, tokens):
        options = {"t5xxl_min_length": tokens}
        encoded = [
            clip.encode_from_tokens_scheduled(clip.tokenize(line, tokenizer_options=options))[0]
            for line in text.split("\n")
        ]
        pooled = torch.cat([rest["pooled_output"] for _, rest in encoded])
        return ([[torch.cat([tokens for tokens, _ in encoded]), {**encoded[0][1], "pooled_output": pooled}]],)


NODES = [ProbePrompts]
