"""Nodes that only wait: one lets ComfyUI go on meanwhile, one holds its event loop as a local sampler does."""

import asyncio
import time

import comfy.model_management
import torch


class Waiting:
    """A picture, after some seconds. `again` makes ComfyUI run it anew."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "wait", ("IMAGE",)
    PICTURE = torch.zeros([1, 512, 512, 3])

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 1.0}), "again": ("INT", {})}}


class ProbeSleep(Waiting):
    async def wait(self, seconds, again):
        await asyncio.sleep(seconds)
        return (self.PICTURE,)


class ProbeBlock(Waiting):
    """Hears of Cancel between its steps."""

    def wait(self, seconds, again):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.05)
        return (self.PICTURE,)


NODES = (ProbeSleep, ProbeBlock)
