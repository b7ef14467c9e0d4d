"""Every error this package raises on purpose; `HalfpintError` is the base of all.

- `HalfpintError`
    - `UsageError`: the request itself makes no sense (an unknown option value, a rule that matches nothing).
    - `ShapeError`: a tensor does not fit the format asked for.
    - `CheckpointError`: a file is missing, broken, hostile, or not what it claims to be.
    - `UnsupportedError`: the request is sound, but we do not do it; the message names what we do.
    - `NonFiniteError`: a weight holds NaN or infinity; the message names the tensor and the first index.
    - `VerificationError`: what was written does not read back as what was meant.
    - `RoomError`: not enough memory or disk for the job, or a budget that cannot be met.

Each carries the exit code of the command line: 1 the quality gate failed (raised by nobody: it is a verdict),
2 bad usage, 3 bad input, 4 out of room.
"""


class HalfpintError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 3


class UsageError(HalfpintError):
    """The request itself makes no sense."""

    exit_code = 2


class ShapeError(HalfpintError):
    """A tensor does not fit the format asked for."""

    exit_code = 2


class CheckpointError(HalfpintError):
    """A file is missing, broken, hostile, or not what it claims to be."""


class UnsupportedError(HalfpintError):
    """The request is sound, but not done here; the message names what is."""

    exit_code = 2


class NonFiniteError(CheckpointError):
    """A weight holds NaN or infinity."""


class VerificationError(HalfpintError):
    """What was written does not read back as what was meant."""


class RoomError(HalfpintError):
    """Not enough memory or disk for the job, or a budget that cannot be met."""

    exit_code = 4
