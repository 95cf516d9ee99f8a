"""This machine's network: the TUN device, and what the kernel and other programs know and do.

    nconnect.host: plan, diff, ruleset (pure)        nconnect.doctor: routing, netfilter (pure)
             |                                                ^
             v                                                |
    host.Host: read_facts, apply(plan), missing, remove    surroundings: reads rules, routes, iptables
             |-- netlink      links, addresses, routes, policy rules (rtnetlink)
             |-- nftables     our table, by the program nft
             |-- conntrack    connections of peers: read, delete, count (ctnetlink)
             |-- sysctl       /proc/sys
             `-- host_record  host.json: what to restore, written before each change

    tun          the device: packets with their virtio-net headers (linux/if_tun.h, IFF_VNET_HDR)
    monitor      tells what others change (rtnetlink and nfnetlink groups), never blocks
    inotify      tells when a file is removed, or changes
    hosts_file   names of peers in /etc/hosts (nconnect.host.hosts_block); in the helper
    resolved     the same told to systemd-resolved, over D-Bus; in the helper
    netlink_socket   requests, answers and attributes, for netlink, conntrack, nftables and monitor

All of it blocks but the reads and writes of `tun`, `monitor` and `inotify`: the daemon calls it in a thread
(`nconnect.daemon.host_state`).

`apply` reads what is there, lets `nconnect.host.diff` compute the operations, and carries them out one by
one; if one fails, all are undone in reverse. `missing` says what others have removed. `remove` takes back
everything, also what a killed daemon left: the table by its name, routes by their protocol number,
sysctls by `host.json`, which counts only in the boot and network namespace in which it was written.

Specifications: rtnetlink(7), netlink(7), linux/rtnetlink.h, linux/netfilter/nf_tables.h and
nfnetlink_conntrack.h, libnftables-json(5), virtio 1.2 (section 5.1.6), inotify(7), timers and sysctls as
the kernel's documentation has them. Decisions 0007 (one nftables table), 0010 (own rtnetlink), 0024 (ask
the kernel), 0025 (sharing a machine).

To add something that is set: see `nconnect.host`. To read something new from the kernel: a function in
the module of its interface, a field of `nconnect.host.facts` or `nconnect.doctor.facts`.
"""
