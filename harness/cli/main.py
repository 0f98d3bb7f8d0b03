"""Own the way in: mistakes of the caller end as one line and exit status 2, never as a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status: 0 done, 1 wrong or failed, 2 usage, 130 interrupted."""
    # The compiled part may be missing, which the modules below would meet as an ImportError.
    from harness.errors import UnavailableError, UsageError

    try:
        from harness.cli import run

        status = run(sys.argv[1:])
    except (UsageError, UnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # The reader of our output went away (`... | head`): nothing is left to tell it.
        sys.stderr.close()
        status = 141
    sys.exit(status)
