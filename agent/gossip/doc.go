// Package gossip is the ring in which control-plane nodes and agents see who is
// there and what it can do, over hashicorp/memberlist.
//
// It hides memberlist: its locks, its shared pointers, its 512 bytes of
// metadata, its logging and its defaults.
//
// Of tarn it imports the messages in which keys and addresses of members travel to and
// from the control plane, over mTLS, and never in the ring itself.
//
// It promises encrypted traffic of one cluster only, copies instead of shared
// state, and callbacks on a goroutine of its own. It does not promise truth: a
// member shown as failed may live and the reverse. Gossip is a hint, never a
// proof, and must never fence, promote or demote (reliability.md 2.2, M1).
package gossip
