"""The daemon's API over its unix socket: the values that pass, the server, and the command line's client."""
