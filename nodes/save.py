"""Krea Save: files that carry the workflow, a receipt, and the sign that they were made by AI."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import folder_paths
import numpy
import torch
from comfy.cli_args import args
from comfy_api.latest import io, ui

from .bridge.choices import check_choice
from .bridge.execution import private_folder
from .bridge.newer_schema import found_by
from .jobs import environment
from .providers import providers
from .saving import content_credentials, numbered_files, picture_file
from .saving.contents import MADE_BY_AI, SIGNS, Contents, contents_of
from .saving.picture_file import SaveError

OUTSIDE = (
    "filename_prefix leads out of ComfyUI's output folder, or is no name that a file can have: {prefix!r:.120}. Write a name "
    "such as FLUX_Krea/picture. Nothing was saved."
)


class FluxKreaSave(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaSave",
            display_name="Krea Save",
            category="FLUX Krea",
            description="Saves the images as core's Save Image does, and writes into each file the sign that it was made by "
            "AI, the workflow, and a receipt: provider, seed, cost, what was checked. It marks files; it does not make "
            "you compliant with any law.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="One file each. They are also passed on."),
                io.String.Input(
                    "filename_prefix",
                    default="FLUX_Krea/picture",
                    tooltip="Folder and name in ComfyUI's output folder. %date:yyyy-MM-dd%, %width% and %Krea Sampler.seed% "
                    "are replaced, as in Save Image.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(picture_file.FORMATS),
                    default=picture_file.PNG,
                    tooltip="png keeps every pixel. Dropped on the page, png and webp bring the workflow back; no ComfyUI page "
                    "reads it from a jpeg.",
                ),
                io.Int.Input("quality", default=90, min=1, max=100, tooltip="Of jpeg and webp; png has none."),
                io.Boolean.Input(
                    "embed_workflow",
                    default=True,
                    tooltip="Off: neither workflow nor prompt is anywhere in the file. The sign and the receipt stay.",
                ),
                io.Combo.Input(
                    "sign",
                    options=list(SIGNS),
                    default=MADE_BY_AI,
                    tooltip="made by AI writes IPTC's terms into the file's XMP. Content Credentials (C2PA) come with it where "
                    "c2pa-python is installed and the server's environment names FLUX_KREA_C2PA_CERT and "
                    "FLUX_KREA_C2PA_KEY; the node says what is missing.",
                ),
                io.String.Input(
                    "report",
                    optional=True,
                    force_input=True,
                    tooltip="From API Krea, Krea Safety Check or Krea Review Gate: it becomes the receipt. Without one the "
                    "receipt says that nothing was checked.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The same images.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            **found_by(
                io.Schema,
                "save image, save png, save jpeg, save webp, metadata, exif, xmp, iptc, c2pa, content credentials, "
                "made by ai, provenance, export",
                shelf="Image Tools",
            ),
        )

    @classmethod
    def execute(cls, images, filename_prefix, format, quality, embed_workflow, sign, report=None):
        check_choice("format", format, picture_file.FORMATS, SaveError)
        check_choice("sign", sign, SIGNS, SaveError)
        if type(quality) is not int or not 1 <= quality <= 100:
            raise SaveError(f"quality is {quality!r:.40}; it must be a whole number from 1 to 100. Nothing was saved.")
        if not isinstance(embed_workflow, bool):  # a wired "false" would count as true
            raise SaveError(f"embed_workflow is {embed_workflow!r:.40}; it must be true or false. Nothing was saved.")
        check_images(images, format)
        credentials, notes = credentials_for(sign)
        contents = contents_of(
            cls.hidden.prompt,
            cls.hidden.extra_pnginfo,
            str(cls.hidden.unique_id),
            report,
            len(images),
            agent=f"FLUX Krea {version()} for ComfyUI",
            sign=sign,
            embed=embed_workflow,
            metadata=not args.disable_metadata,
            clean=cleaner(),
        )
        files, said = save(images, filename_prefix, format, quality, contents, credentials)
        text = "\n".join(dict.fromkeys([*notes, *contents.notes, *said]))
        return io.NodeOutput(images, ui={**ui.SavedImages(files).as_dict(), "text": (text,) if text else ()})


def check_images(images: torch.Tensor, file_format: str) -> None:
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise SaveError(f"images must be floating-point numbers from 0 to 1, got {kind}: nothing was saved.")
    picture_file.check_shape(images.shape, file_format)
    for index, image in enumerate(map(readable, images)):
        # The sum is no number unless all are, and is had in a fraction of the time.
        if not math.isfinite(image.sum()) and not torch.isfinite(image).all():
            raise SaveError(
                f"Image {index + 1} of {len(images)} has pixels that are not finite numbers: nothing was saved. A VAE in "
                "half precision does that: start ComfyUI with --fp32-vae, or --bf16-vae."
            )


def credentials_for(sign: str) -> tuple[content_credentials.Credentials | None, list[str]]:
    """What signs the files, and what the node says where nothing does. Raises SaveError where it was asked for in vain."""
    if sign != MADE_BY_AI:
        return None, []
    certificate, key = map(environment.variable, (content_credentials.CERTIFICATE, content_credentials.KEY))
    credentials = content_credentials.read_credentials(certificate, key)
    return credentials, [] if credentials else [content_credentials.note_without(certificate, key)]


def cleaner() -> Callable[[str], str]:
    """Takes secrets out of a text."""
    from .bridge.secrets import without_secrets  # imported late: who saves nothing needs no keys
    from .jobs.keys import Keys

    return partial(without_secrets, keys=Keys(private_folder(), providers()))


def save(
    images: torch.Tensor,
    prefix: str,
    file_format: str,
    quality: int,
    contents: Contents,
    credentials: content_credentials.Credentials | None,
) -> tuple[list[ui.SavedResult], list[str]]:
    """One file an image, in core's folder and with core's numbers; and sentences about what they could not hold."""
    height, width = images.shape[1:3]
    folder, name, counter, subfolder = None, "", 0, ""
    saved: list[ui.SavedResult] = []
    said: list[str] = []

    def made(index: int) -> bytes:
        picture = picture_file.as_picture(to_bytes(images[index]))
        try:
            content, notes = picture_file.encoded(picture, file_format, quality, contents.texts(index, (width, height)))
        except SaveError as error:
            done = f"{len(saved)} of {len(images)} images are saved." if saved else "Nothing was saved."
            raise SaveError(f"{error} {done}") from None
        said.extend(notes)
        if not credentials:
            return content
        return content_credentials.signed(content, file_format, contents.source_type, contents.agent, credentials)

    files = map(made, range(len(images)))
    for index, content in enumerate(list(files) if credentials else files):  # all are signed before one is saved
        try:
            if folder is None:  # only now: a picture that cannot be made leaves no folder behind
                folder, name, counter, subfolder = place_for(prefix, width, height)
            numbered = name.replace("%batch_num%", str(index))
            extension = picture_file.EXTENSIONS[file_format]
            file, used = numbered_files.write_next(folder, numbered, counter, extension, content)
        except OSError as error:
            raise numbered_files.as_save_error(error, len(saved), len(images)) from None
        counter = used + 1
        saved.append(ui.SavedResult(file, subfolder, io.FolderType.output))
    if credentials:
        said.append(f"Signed with Content Credentials ({credentials.algorithm}).")
    return saved, said


def place_for(prefix: str, width: int, height: int) -> tuple[str, str, int, str]:
    """Core's folder, name, next number and subfolder. Raises SaveError for a prefix that leads elsewhere, and OSError."""
    output = folder_paths.get_output_directory()
    try:
        if "\0" in prefix:
            raise ValueError(prefix)
        prefix.encode()  # half a character, which a file system refuses or garbles, raises here
        return folder_paths.get_save_image_path(prefix, output, width, height)[:4]
    except OSError:
        raise
    except Exception:  # core's has no type of its own, and names the machine's folders
        shown = cleaner()(prefix) if isinstance(prefix, str) else prefix
        raise SaveError(OUTSIDE.format(prefix=shown)) from None


def readable(image: torch.Tensor) -> torch.Tensor:
    """In numbers of a kind that numpy has, too."""
    return image if image.dtype in (torch.float16, torch.float32, torch.float64) else image.float()


def to_bytes(image: torch.Tensor) -> numpy.ndarray:
    """[H, W, C] in 0..1 → bytes, in the same way as core's Save Image."""
    return numpy.clip(255.0 * readable(image).detach().cpu().numpy(), 0, 255).astype(numpy.uint8)


@cache
def version() -> str:
    """This pack's, from its pyproject.toml; "" where somebody has taken that away."""
    try:
        project = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r'^version = "(.+)"$', project, re.M)
    return found[1] if found else ""


NODES = [FluxKreaSave]
