"""Settings of all tests."""

import signal

# A shell that starts the tests in the background has them ignore Ctrl-C, and so their children, of which some are sent one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
