"""Processes and rights: who the daemon is, what it may do, and the part of it that stays root.

    nconnect up (root)
      | fork, before anything is open:  helper.Helper --> a process that stays root, without capabilities
      | open what needs root: TUN, ports of [node], lock
      v
    rights.settle: become the user `nconnect`, keep CAP_NET_ADMIN alone (privileges)
      |
      v
    the daemon -- one byte: C, S, K, U, L, R, D --> helper: opens the configuration, makes lock and socket
      |        -- N and names of peers ----------> helper: name_keeper --> systemd-resolved, or /etc/hosts
      |
      `-- notify: ready, status, watchdog to systemd     boot_timer: timers that go on during sleep
          process: malloc, garbage collection, thread switching; hides a secret in the process list

Order matters: capabilities belong to threads, so rights are given up before any thread exists; a helper
has only what was loaded when it was forked. After `settle` the process cannot gain a right again:
no-new-privileges is set, the bounding set is empty, core dumps are off (capabilities(7), prctl(2),
user_namespaces(7)). Where there is no such user, or it cannot enter a folder that it needs, the daemon
stays root with that one capability and says why (decision 0021).

- **helper**: the process that stays root. Each request is one byte with a fixed meaning, so a daemon in an
  attacker's hands can ask for no more than that. All that it parses are names of peers, by
  `nconnect.offers.name_codec.decode`: beneath `.internal`, bounded in number, with an address each.
- **settle**: give up all rights but one. **take back**: give root what an earlier version gave to the
  daemon's user.

What the daemon's user may not do, and must be done while it runs: a request of the helper, as narrow as
possible.
"""
