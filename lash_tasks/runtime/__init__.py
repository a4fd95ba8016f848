"""The shell around the turn machine: leases, the journal, effects, commit, and the threads that keep them alive."""
