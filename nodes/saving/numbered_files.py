"""Files under the next free number, whole or not at all."""

from __future__ import annotations

import errno
import os

from .picture_file import SaveError


def write_next(folder: str, name: str, counter: int, extension: str, content: bytes) -> tuple[str, int]:
    """Writes `name_00001_.ext` with the first number from `counter` on that is free → the file's name, its number.

    Another ComfyUI may write into the same folder: no file is ever replaced. Raises OSError, and leaves no half file.
    """
    while True:
        file = f"{name}_{counter:05}_.{extension}"
        path = os.path.join(folder, file)
        try:
            opened = open(path, "xb")  # closed below: a network disk says only then that it is full
        except FileExistsError:
            counter += 1
            continue
        try:
            with opened:
                opened.write(content)
            return file, counter
        except BaseException:
            os.unlink(path)
            raise


def as_save_error(error: OSError, saved: int, count: int) -> SaveError:
    """Why a picture could not be written, without the machine's paths."""
    done = f" {saved} of {count} images are saved." if saved else " Nothing was saved."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "The disk of ComfyUI's output folder is full: make room, then run again."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = "ComfyUI may not write there: give its user the right to, or change filename_prefix."
    elif error.errno == errno.ENAMETOOLONG:
        what = "filename_prefix is too long for this disk: shorten it."
    else:
        what = f"The file could not be written ({error.strerror or type(error).__name__}): change filename_prefix."
    return SaveError(f"{what}{done} The images stay in memory until ComfyUI ends: nothing is generated again.")
