// Package nfs writes and reads whole small files through an NFS version 3 server: as
// much of a client as a test needs that wants to know exactly which of its writes
// were confirmed.
//
// It hides the wire (RFC 1813, RFC 5531). It keeps nothing in memory and repeats
// nothing: what returns without an error was confirmed by the server as being on
// stable storage, and an error leaves open whether it was done.
//
// It imports the standard library only.
package nfs
