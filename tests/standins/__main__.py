"""`python -m tests.standins fal --port 0`: one stand-in, or `all`, as a process; prints NAME=VALUE lines first."""

import argparse
import threading

from . import PROVIDERS, Standin


def main():
    parser = argparse.ArgumentParser(prog="standins", description=__doc__)
    parser.add_argument("provider", choices=[*PROVIDERS, "all"])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args()
    names = PROVIDERS if options.provider == "all" else [options.provider]
    for standin in [Standin(name, options.port) for name in names]:
        for variable, value in standin.env.items():
            print(f"{variable}={value}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass


main()
