"""A batch of images as it can be looked at. What is scored, shown and handed on is this, and nothing else.

ComfyUI's images are float tensors [batch, height, width, channels] in 0..1, but nothing keeps a node from making other
numbers. Whoever looks sees -10 as black and 7 as white; a later node could still bring back what was drawn in them.
"""

from __future__ import annotations

import torch


class SafetyError(ValueError):
    """The check could not be made, or the user asked for an error when something is flagged."""


def check_images(images: torch.Tensor) -> None:
    """SafetyError unless this is a batch of at least one picture of floating-point numbers, with 3 or 4 channels."""
    if not isinstance(images, torch.Tensor):
        raise SafetyError(f"Expected images as [batch, height, width, 3 or 4], got {type(images).__name__}.")
    if images.ndim != 4 or images.shape[-1] not in (3, 4):
        raise SafetyError(f"Expected images as [batch, height, width, 3 or 4], got {list(images.shape)}.")
    if images.numel() == 0:
        raise SafetyError(f"There is no image to check: the batch is {list(images.shape)}.")
    if not images.is_floating_point():
        raise SafetyError(
            f"Expected images as floating-point numbers from 0 to 1, got {images.dtype}: convert them before this node, "
            "dividing by 255 if they are bytes."
        )


def visible(images: torch.Tensor) -> torch.Tensor:
    """The images as a picture file or a screen has them: a new tensor, float32 in 0..1, NaN as black.

    Raises SafetyError as `check_images` does.
    """
    check_images(images)
    return torch.nan_to_num(images.detach().float(), nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1)


def pictures(image: torch.Tensor) -> list[torch.Tensor]:
    """All that can be seen in one visible image [H, W, 3 or 4], each [H, W, 3].

    The colours without regard to alpha, since what alpha hides is still in a file; and alpha as a grey picture where
    it is not the same everywhere, since a picture can be drawn in it.
    """
    alpha = image[..., 3:]
    drawn_in_alpha = alpha.numel() > 0 and bool(alpha.min() < alpha.max())
    return [image[..., :3], *([alpha.expand(-1, -1, 3)] if drawn_in_alpha else [])]
