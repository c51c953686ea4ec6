"""A process of its own that begins with what this one has imported: it starts in milliseconds, not in seconds."""

import multiprocessing, os, signal, sys, traceback
from pathlib import Path


def forked(
    work,  # function without arguments: its result is the exit code
    out,  # path of a file that gets what is printed
) -> multiprocessing.Process:  # started, leader of a group of its own
    "Run `work` as a command would run it."

    def child():
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray sets one of its own where it is started
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1), os.dup2(handle, 2)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
        code = 1
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

    Path(out).touch()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process
