// Package export makes the mountpoints of replicas reachable for clients.
//
// It hides what serves them and how access rules become its configuration. An
// exporter puts the whole rule set of one mountpoint in force, tells per rule
// what it could not apply, and can take a mountpoint away so that no client
// reaches it any more. Directory is the exporter of the embedded storage, where
// clients are local users of the directory: it keeps the durable table that a
// server would serve from.
//
// It may import the protocol messages. It promises that what it reports was read
// back, that applying twice changes nothing, and that rules are canonical
// prefixes, never text of a caller's making.
package export
