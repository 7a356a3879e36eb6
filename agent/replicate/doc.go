// Package replicate lives one replica's life on a storage host.
//
// It hides how a dataset gets from what it is to what an assignment wants:
// creation, receiving, demotion, rejoining with other history put aside,
// removal, snapshots on a cadence and their retention. Step is a pure function
// from observed facts to the next action; a Worker observes, executes, reports.
//
// It may import zfs, agent/stream and the protocol messages. Storage, exports,
// lease and transport are small interfaces.
//
// It promises that any crash at any step ends in the same place, that no data
// are thrown away (no forced receive, no recursive destroy, no rollback), and
// that nothing without this replica's own local marks is ever touched.
package replicate
