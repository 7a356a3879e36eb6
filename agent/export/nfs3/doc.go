// Package nfs3 serves directories over NFS version 3 and its MOUNT protocol, both
// on one TCP port, without rpcbind and without locks (NLM).
//
// It hides the wire, file handles and the identity of callers. Who may reach a
// tree is asked for every single request, so that a change of rules holds for
// connections and handles that exist; so is whether this host may serve the tree
// at all. Nothing outside a tree can be reached: every path goes through os.Root.
// Handles stay good over restarts and renames for as long as the file exists, and
// are stale afterwards: never those of another file.
//
// It may import the RPC layer. Record marking and credentials are go-xdr's; its
// NFS messages are not used, because they allow ASCII names only.
package nfs3
