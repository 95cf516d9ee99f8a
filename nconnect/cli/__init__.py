"""The command line: parse, call the daemon or change the file, render. `app.main` is the entry point.

    nconnect ... --> app.main --> typer --> a command's function
                        ^                     |-- reads:   control.client -> schema -> render, output
      errors become     |                     |-- changes: change.change_file, change_peer (below)
      one line and      +-- NconnectError ----|-- starts:  preflight, detach -> nconnect.daemon.up
      a status                                `-- looks:   doctor, setup (init), join

Exit status: 0 done; 1 failed (`NconnectError`, or an unexpected error, whose traceback `--debug` shows);
2 usage or configuration (`UsageError`, `ConfigError`); 130 Ctrl-C.

A change of the configuration (`change`), with the file locked from the first step to the last:

    read -> change the text -> check the result -> write -> ask the daemon to reload
                                  |                              |-- no daemon: kept in the file
                                  wrong: nothing is written      |-- refused: the old text is put back
                                                                 `-- no answer: kept, and the error says so

A peer that came by invitation is not in the file; `change_peer` changes its invitation in the same way.

Rules: every import below `app` is inside the command that needs it, so that `--help` stays fast; a
command with output for programs has `--json`, one object on one line; what cannot be undone asks first
(`options.confirm`, `--yes`); a secret on a command line is removed from the process list
(`nconnect.io.process.process.hide_argument`).

    app, groups, options, output     the tree of commands, its help, shared options, tables and quantities
    setup, interview, join, leave, invite   init; providers; invitations
    daemon, detach, preflight        up, down, wait; going into the background; what must be there first
    progress, logs, log_limit        `up` in a terminal; log formats and `nconnect logs`; a bound on log lines
    inspect, render, watch, history, round_trip     status, address, ping
    peer, pending, transfer, provide, config, change     the table of peers, what is offered, the file
    node, doctor                     `nconnect node`; `nconnect doctor`
    forward, socks, carry            `nconnect forward`, `nconnect socks`, and what both do
    tree, completion, man            the commands as values; what is generated from them

To add a command: a function with typer annotations in the file of its subject, registered in `app`;
examples and group in `groups`; docs; then `scripts/man` and `scripts/reference`. To add an option that
stays in the file: also `nconnect.config` (see there).
"""
