"""The shells of NKN's machines. They decide nothing: `nconnect.nkn` and `nconnect.node` do.

    a client's side                                           a node's side
    daemon.driver, sdk                                        nconnect node, or [node] in the daemon
          | send(dest, parts), on_message                             |
          v                                                           v
    links.Links: several LinkRunners, spares                  node_server.NodeServer: ports, RPC, timer
          |                                                           |-- nconnect.node.core.Node
          v                                                           |-- stun_server: UDP ports
    link.LinkRunner: one nconnect.nkn.link.Link                       `-- cluster.ClusterLink: NATS
          |-- rpc: asks the seeds, 0.3 s apart
          `-- ways: opens the websocket by the first way that works (io.net.websocket_client)

    join       a new device's application to its provider, over a link that lives only that long

The cycle of `LinkRunner` (and of `NodeServer`): an input to the machine, then every output, then one
timer for the next deadline. At most one task runs beside it: a look-up at the seeds, or a connect.
`run()` is the link's task; the supervisor starts it again if a handler fails.

- **shared link**: one that left because another link of this client is at the same node, and stands in
  for it.
- **spare**: a link that runs only while no other link can reach its node (`nconnect.nkn.spares`).

To add an output of a link: its branch in `LinkRunner`. To add a service of the node: its port and task in
`NodeServer`, its logic in `nconnect.node`.
"""
