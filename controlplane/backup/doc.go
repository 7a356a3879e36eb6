// Package backup is the file in which the state of a control plane is kept outside
// of it: what it says of itself, the state, and a checksum over both.
//
// It hides the layout: one line that names the format, one line of JSON (Info), the
// state as raftfsm writes snapshots, and the SHA-256 of all that.
//
// It may import raftfsm. It knows nothing of the cluster, the network or the API.
//
// It promises that a file which Check accepts can be restored by this version, and
// that a damaged, cut or newer file is told apart and refused with the next step.
package backup
