"""Whether this machine trains as it should: what it is made of, what was tried on it, and how fast it was."""
