"""The job: solve tensor by tensor, write aside, journal, resume, read back, and rename."""
