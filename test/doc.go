// Package test checks rules that hold for the whole tree: which package may
// import which, and which calls are forbidden where.
package test
