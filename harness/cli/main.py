"""Own the way in: mistakes of the caller end as one line and exit status 2, never as a traceback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.cli.exit_status import ExitStatus


def main() -> None:
    """Run the command line and exit with its status (`exit_status.ExitStatus`)."""
    # The compiled part may be missing, which the modules below would meet as an ImportError.
    from harness.cli import streams
    from harness.cli.exit_status import ExitStatus
    from harness.errors import UnavailableError, UnfitMachineError, UsageError

    is_open = streams.prepare()
    try:
        from harness.cli import run

        status = run(sys.argv[1:])
        sys.stdout.flush()
    except UnfitMachineError as error:
        streams.print_error(str(error))
        status = ExitStatus.UNFIT
    except (UsageError, UnavailableError) as error:
        streams.print_error(str(error))
        status = ExitStatus.USAGE
    except KeyboardInterrupt:
        streams.print_notice("interrupted")
        status = ExitStatus.INTERRUPTED
    except BrokenPipeError:
        status = _lose_reader()
    except SystemExit as ended:
        # What the libraries that read options and print tables make of a pipe without a reader.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        status = _lose_reader()
    except OSError as error:
        what = f"{error.filename}: " if error.filename else "the output can't be written: "
        streams.print_error(f"{what}{error.strerror}")
        streams.abandon_output()
        status = ExitStatus.BAD
    if not (is_open or status):
        streams.print_error("standard output is closed: what was to be printed is lost")
        status = ExitStatus.BAD
    sys.exit(status)


def _lose_reader() -> ExitStatus:
    """Return the status of a command the reader of whose output went away: nothing is left to tell it."""
    from harness.cli import streams
    from harness.cli.exit_status import ExitStatus

    streams.abandon_output()
    return ExitStatus.READER_GONE
