// Package fsmtest helps tests that use raftfsm: it detects code that changes the
// shared records of a View. It may import raftfsm and the standard library.
package fsmtest
