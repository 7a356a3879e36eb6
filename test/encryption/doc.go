// Package encryption lets the real program keep an encrypted share on real pools: a
// cluster of processes, in the virtual machine of test/vm.
//
// The test binary is the program, too: called with a subcommand of tarn it runs that.
package encryption
