// Package stream moves snapshots between agents, over plain HTTP/1.1 on mutual TLS.
//
// It hides the wire: which snapshot comes next for a receiver that says what it
// has, the holds that keep base and target alive meanwhile, resume tokens, the
// sender's result in the trailer, rate limit, progress and the stall watchdog.
// One long poll per pair of hosts (Board, Feed) tells receivers when a source's
// newest snapshot changed and when it was last equal to the live data.
//
// It may import zfs and the protocol messages. The caller supplies TLS, storage
// and the decision who may pull what.
//
// It promises that a stream names its GUIDs before the first byte, that errors
// keep their class across the wire, and that nothing is ever sent from a token
// or a base that is not of the dataset granted.
package stream
