"""A tunnel without root: its network is a namespace that an ordinary user may make.

    machine's own network                      user, network and mount namespace of the tunnel
    ┌──────────────────────────────┐           ┌───────────────────────────────────────────────┐
    │ daemon: links, direct paths, │  TUN fds  │ inside: opens the TUN, sets addresses, routes │
    │ tunnel core, control socket  │◄──────────┤ and nft rules, keeps the hosts file           │
    │                              ├──────────►│                                               │
    │ pasta: ordinary network      │  requests │ `nconnect run`: a command, without rights     │
    └──────────────────────────────┘           └───────────────────────────────────────────────┘

An ordinary user has all rights over a user namespace of their own, and over a network namespace made in it
(user_namespaces(7)). So the daemon forks a process (`inside`) that makes these namespaces and does there what
root does elsewhere, with the same code (`io.system.host`). The TUN's descriptors come out of it, and the data
path stays in the daemon: no packet passes the process inside.

The namespaces live as long as the process inside, or a command that `run` started. The process inside ends
when the daemon ends, also when that is killed; the TUN, its addresses, routes and rules go with it. Nothing
of the machine is changed at any time.

A command that `run` starts has the user's own uid and no capability. From in there it can trace no process of
the machine, not even one of the same user (ptrace(2): another user namespace), the folder of control sockets
is hidden, and the machine's loopback is another one.
"""
