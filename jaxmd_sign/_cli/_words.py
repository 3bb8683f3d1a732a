"""What the commands share."""

import sys

DATA = "CSV file with a header, .npz file with X and y, blocks:K:SEED or blocks:KxD:SEED."


def complain(message: str, status: int) -> int:
    """One line on stderr; the exit status."""
    print(f"jaxmd-sign: {' '.join(message.split())}", file=sys.stderr)
    return status
