// Package privsep separates privileges: an agent that runs as an ordinary user, and a
// small process of root's that does for it the few things that take root.
//
// The helper listens on a Unix socket and serves one user, whom the kernel names
// (SO_PEERCRED). A connection is one call of a closed list of verbs; the helper starts no
// shell, takes no path of a program, and checks every argument again: commands of zfs(8)
// and zpool(8) have to have one of the shapes that package zfs builds, with datasets
// below the configured base and properties that make nothing reachable (Policy). Streams
// pass through descriptors that the call hands over. Those that are received pass through the
// helper too, which looks at their first record: what a stream says, zfs receive does, and that
// may be a property or a clone of other data. Each call leaves a line in the helper's log.
//
// What the helper does not keep from its user: writing and destroying replicas below the
// base, which is the agent's work. What it does: everything else on the machine.
//
// It imports zfs, agent/export for the servers of shares, and the messages of both.
package privsep
