"""What runs first of xenctl: most of a short command's time goes into loading the rest."""

from __future__ import annotations

import os
import sys

from domains.xenctl.quick import answer


def main() -> None:
    """The program's entry: the quick way where there is one (quick.py), else the command in full."""
    try:
        text = answer(sys.argv[1:])
        if text is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
            os._exit(0)  # without Python's taking apart of each module
    except OSError:  # it cannot be written, which the full command explains
        pass
    except KeyboardInterrupt:
        os._exit(130)  # as main.INTERRUPTED
    perform()


def perform() -> None:
    """The command in full. A Ctrl-C while modules are loaded ends it as it ends a program that does not heed SIGINT, without
    a word; then Python's handler is there again, and main.py says what a Ctrl-C does.
    """
    import signal

    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # and not ignored, as in a shell's background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from domains.xenctl.main import main as run

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
