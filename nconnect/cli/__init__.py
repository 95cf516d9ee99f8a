"""The command line: parse, call the daemon or change the file, render. `app.main` is the entry point.

Everything below is imported inside the commands, so that `nconnect --help` stays fast.
"""
