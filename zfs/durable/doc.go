// Package durable writes small files that have to be there, whole, after a crash or a
// loss of power: who a host is, what guards it, what is mounted where.
//
// It knows the standard library only.
package durable
