"""Input and output: sockets, files, processes, the kernel. Everything that blocks, waits or looks at the
machine.

The pure packages below decide; this package does what they say and tells them what happened. It has a
room for each subject:

    files     files and folders, also in places that other users can change
    http      HTTP/1.1, client and server, on h11
    net       TCP connections, names, proxies, TLS, websockets, UDP sockets
    nkn       the shells of NKN's machines: links, seeds, the node, the cluster
    process   users, capabilities, the helper that stays root, systemd, timers
    system    this machine's network: TUN, netlink, nftables, conntrack, sysctls
    clock     the one clock: CLOCK_BOOTTIME, seconds, which goes on while the machine sleeps
    errors    the system's errors in words
    doctor    gathers the facts that `nconnect.doctor` judges

A shell around a pure machine is always the same loop:

    something happened           the machine                        the shell
    socket readable, timer,      feed: receive_…(data, now),        take every poll_output() and do it:
    task done             -----> connected(now), handle_timeout --> send, connect, close, call the handler
                                                                    then one timer for poll_timeout()

Three rules:

- What runs on the event loop never blocks. `files`, `system` and `doctor` block; their callers use a
  thread (`asyncio.to_thread`), except before the loop starts.
- A buffer that a handler is given is **borrowed** until the handler returns. A buffer that is sent may be
  reused as soon as the call returns: what the kernel did not take has been copied.
- What can be too large or too slow has a bound or a time limit, given by the caller or stated beside the
  constant.

Errors: what a user sees is a `NconnectError`, whose text is one line that says what is wrong and what to do.
A function that says "Raises `OSError`" leaves the words to its caller.

To add a module: the room of its subject. A new subject is a new room; the
socket of a kind of path belongs to `net`.
"""
