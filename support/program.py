"""How every program of this repository starts, reports progress and ends."""

import importlib
import os
import signal
import sys
import time

from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm


def import_optional(module, user):
    """Import a module of requirements-extra.txt. Raises ValueError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = {'sklearn': 'scikit-learn'}.get(error.name, error.name)
        raise ValueError(f'{user} needs the package {package}: '
                         'python -m pip install -r requirements-extra.txt') from None


def run_program(main, get_args):
    """Call main(get_args()); turn errors into one line on stderr and an exit status.

    ValueError and OSError, the errors of bad input, end with status 2, Ctrl-C with 130, a closed
    output pipe with 141 and SIGTERM with 143; the notes of an exception (`add_note`) follow its
    message. Worker processes are ended.
    """
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        if getattr(sys, name) is None:  # closed by the caller, but worker processes inherit it
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, 'w', closefd=False))
        getattr(sys, name).reconfigure(errors='replace')  # a console that is not UTF-8 has no ε
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        main(get_args())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has ended, as `head` does
        sys.stdout = open(os.devnull, 'w')
        sys.exit(141)
    except (ValueError, OSError) as error:
        exit_now(error, 2)
    except Interrupt as error:
        exit_now(error, error.status)


class Interrupt(KeyboardInterrupt):
    """SIGINT or SIGTERM; `status` is 128 plus its number."""


def interrupt(number, frame):
    """Raise Interrupt, and again until it arrives: Python ignores exceptions in some callbacks."""
    sys.unraisablehook = lambda _: None
    if hasattr(signal, 'setitimer'):  # not on Windows
        signal.signal(signal.SIGALRM, lambda *_: interrupt(number, frame))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
    error = Interrupt('Interrupted.')
    error.status = 128 + number
    raise error


def exit_now(error, status):
    """Kill the workers, print the error and its notes on one line, and exit."""
    for name in ('SIGINT', 'SIGTERM', 'SIGALRM'):  # the program is ending already
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    get_reusable_executor(reuse=True).shutdown(kill_workers=True)
    message = ' '.join([str(error), *getattr(error, '__notes__', [])])
    try:
        sys.stdout.flush()
        print(f'\n{message}' if status > 2 else message, file=sys.stderr, flush=True)
    except OSError:  # nobody reads it any more
        sys.stdout = sys.stderr = open(os.devnull, 'w')
    sys.exit(status)


class LogLines:
    """Progress for a log file: a line every half minute, and one at the end."""

    def __init__(self, total, desc, unit='task', initial=0):
        self.total, self.desc, self.unit, self.n, self.initial = total, desc, unit, initial, initial
        self.start = self.printed = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, n=1):
        self.n += n
        now = time.monotonic()
        if self.n == self.total or now - self.printed > 30:
            self.printed = now
            self.write(tqdm.format_meter(self.n, self.total, now - self.start, 80, self.desc,
                                         unit=self.unit, initial=self.initial, bar_format=METER))

    def write(self, text, file=None):
        print(text, file=sys.stderr, flush=True)


METER = '{desc}: {n_fmt}/{total_fmt} {unit}s, {elapsed} elapsed, {remaining} left'


def progress_bar(**kwargs):
    """Return a tqdm progress bar, or lines for a log file where stderr is not a terminal."""
    return tqdm(**kwargs) if sys.stderr.isatty() else LogLines(**kwargs)
