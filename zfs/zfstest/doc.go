// Package zfstest describes the semantics of package zfs as one suite of tests that
// every engine has to pass, with real files, and offers faults to the tests of
// consumers: Faulty fails chosen calls and cuts or damages streams.
//
// It is imported by tests only. It may import zfs, rapid and the standard library.
package zfstest
