// Package export makes the mountpoints of replicas reachable for clients.
//
// It hides what serves them and how access rules become its configuration. An
// exporter puts the whole rule set of one mountpoint in force, tells per rule
// what it could not apply, and can take a mountpoint away so that no client
// reaches it any more. Kernel speaks to the kernel's NFS server, Ganesha to an
// NFS-Ganesha that it may run itself, Embedded is a server by itself; Directory
// only keeps the durable table,
// for clients that are users of this machine.
//
// It may import the protocol messages. It promises that what it reports was read
// back from the server, that applying twice changes nothing, that exports of
// others stay as they are, and that rules are canonical prefixes, never text of a
// caller's making. Of several rules that contain a client the most specific one
// counts, with every server: Ganesha takes the first of a list, so the list is
// sorted; exportfs keeps no order, so networks are cut up around each other.
package export
