// Package filetree makes directories of real files and compares them byte for byte:
// what the demo and the end-to-end tests show and check replication with.
//
// It may import the standard library only.
//
// It promises that a written file is synced before Write returns, and that
// Difference overlooks no entry, kind, link target or byte.
package filetree
