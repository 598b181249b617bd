"""What a job is: its log, its lock, its GPU; and what to clear when one was killed. POSIX."""
