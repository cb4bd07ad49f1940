"""A delivery's pictures: from their addresses, or out of the answer itself, to the pictures folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from ..providers.contract import IMAGE_TO_IMAGE, INPAINTING, BadAnswer, Delivery, Picture
from . import picture_files
from .client import Client, Gone
from .job_record import JobRecord

ON_DISK = "stored:"  # stands in the journal for a picture that came as text
MORE_THAN_ASKED = 4  # times the pixels that were asked for; above that a picture is refused
LEAST_ASKED, MOST_ASKED = 2**20, 4 * 2**20  # pixels: providers round small sizes up, and take input images so large


def delivery_of(record: JobRecord) -> Delivery:
    values = dict(record.delivery or {})
    for name in ("pictures", "flags", "notes"):
        values[name] = tuple(values.get(name) or ())
    return Delivery(**values)


def on_disk(record: JobRecord, folder: Path) -> tuple[Picture, ...] | None:
    """All of a finished job's pictures, None when one is missing or damaged."""
    found = [picture_files.stored(folder, _stem(record, index)) for index in range(len(record.pictures))]
    return tuple(filter(None, found)) if found and all(found) else None


def store_texts(urls: Sequence[str], record: JobRecord, folder: Path, client: Client) -> tuple[str, ...]:
    """Pictures that came as text go to disk before anything else: their only copy is in memory.

    What is too large or damaged is kept too; `fetch` refuses it, with the name of its file.
    """
    kept = []
    for index, url in enumerate(urls):
        if url.startswith("data:"):
            try:
                client.download(url, folder, _stem(record, index), most_pixels(record))
            except picture_files.TooLarge:
                pass
            except BadAnswer as fault:
                picture_files.keep_unreadable(url, folder, _stem(record, index), str(fault))
            url = ON_DISK
        kept.append(url)
    client.drop_answer()
    return tuple(kept)


def fetch(
    urls: Sequence[str], record: JobRecord, folder: Path, new_client: Callable[[], Client]
) -> tuple[Picture, ...]:
    """All at once, each on a connection of its own; what an earlier try left complete is not fetched again."""

    def one(index: int) -> None:
        client = new_client()
        try:
            picture = picture_files.stored(folder, _stem(record, index))
            if picture is None and urls[index] == ON_DISK:
                picture_files.refuse_again(folder, _stem(record, index), most_pixels(record))
                raise Gone("The picture was deleted from the disk.", paid=True)
            if picture is None:
                picture = client.download(urls[index], folder, _stem(record, index), most_pixels(record))
            futures[index].set_result(picture)
        except Exception as error:
            futures[index].set_exception(error)
        finally:
            client.close()

    futures: list[Future[Picture]] = [Future() for _ in urls]
    for index in range(1, len(urls)):
        threading.Thread(target=one, args=(index,), name="krea-download", daemon=True).start()
    one(0)
    return tuple(future.result() for future in futures)


def most_pixels(record: JobRecord) -> int:
    """What one picture may have, by what was asked for. Fields of `extra` may have asked for any size."""
    asked = record.request
    if asked.get("extra"):
        return picture_files.MAX_PIXELS
    width, height = asked.get("width"), asked.get("height")
    if asked.get("mode") in (IMAGE_TO_IMAGE, INPAINTING) or type(width) is not int or type(height) is not int:
        pixels = MOST_ASKED
    else:
        pixels = max(LEAST_ASKED, width * height)
    return min(picture_files.MAX_PIXELS, MORE_THAN_ASKED * pixels)


def _stem(record: JobRecord, index: int) -> str:
    return f"{record.id}-{index}"
