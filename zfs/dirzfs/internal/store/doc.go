// Package store keeps chunks and tree objects with reference counts: chunk data in
// append-only pack files, everything else in the pool's bbolt database, so that one
// transaction of the caller commits them together with its own records.
//
// Data are synced before the transaction that refers to them. After a crash, bytes
// of packs beyond their committed size are cut off; records without references are
// collected by Sweep. Chunks are verified against their hash whenever they are read.
package store
