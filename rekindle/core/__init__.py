"""The pure domain: no I/O, no clock, no AWS names. Everything else imports this; this imports nothing of ours."""
