"""Files: the configuration, the state folder, the run folder; and how root opens files that others may
replace.

    cli, daemon
      |-- config_file     the configuration: find, read if secret, replace as a whole, lock for a change
      |-- config_source   the same for a running daemon: from a descriptor that its helper hands over
      |-- peer_table      the file's peers and the invited ones, as one table
      |-- invitations     the book of invitations: two files with two owners (decision 0021)
      |-- state           small JSON values that an interface keeps between runs
      |-- run_files       lock and control socket; paths says where everything is
      `-- report          the bundle for a bug report, without secrets
               |
               v
          trusted         walks a path component by component, and decides whose rights are used

Where things are:

    /etc/nconnect/nc0.toml                                root, 0600; $NCONNECT_CONFIG, -c
    /run/nconnect/nc0.sock, nc0.lock, nodes/              $NCONNECT_RUN_DIR
    /var/lib/nconnect/nc0/                                the daemon's user, 0700; $NCONNECT_STATE_DIR
    /var/lib/nconnect/issued-invitations/nc0.json         root; the daemon's user may read it

and of an ordinary user, all 0700:

    $XDG_CONFIG_HOME/nconnect/nc0.toml                    or ~/.config/nconnect
    $XDG_RUNTIME_DIR/nconnect/nc0.sock, nc0.lock          or /tmp/nconnect-UID
    $XDG_STATE_HOME/nconnect/nc0/                         or ~/.local/state/nconnect

`trusted` is the reason why root opens nothing by its whole name: whoever can write to a folder can
replace what is in it, also between a check and its use. Each folder on the way decides: root's own are
followed; in another user's folder that user's file-system uid is used (setfsuid(2), openat(2),
path_resolution(7)), and links are refused.

- **trusted folder**: one that only root, or only the user who is acted for, can change.
- **replace**: write a temporary file, fsync, rename: a reader or a crash sees the old content or the new.

A new file of the daemon's: a value in `state`. One that a person writes: through `config_file` or
`trusted`, never by `open()`.
"""
