// Package audit says who did what to the cluster, where nobody can take it back unseen.
//
// Decisions are records of the replicated state: the command and its record are one
// log entry, and each record's hash covers the one before. Every node also copies them
// to a file of its own, along with what never becomes a decision: requests that were
// refused at the door, and the intents that precede destructive calls. The file is a
// hash chain too.
//
// It hides redaction, the file's format and its repair after a crash.
//
// It may import raftfsm and proto.
//
// It promises that no field marked debug_redact reaches a record, and that Intend
// returns only once the intent is on disk.
package audit
