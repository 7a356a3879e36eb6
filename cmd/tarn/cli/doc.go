// Package cli is the command line: nouns and verbs of Manila, over Connect.
//
// It hides argument parsing, name resolution, waiting, output formats and the
// meaning of exit codes. Run takes everything it touches as arguments, so that
// tests drive the real program in-process.
//
// It may import anything below cmd/tarn; nothing imports it but main and tests.
//
// It promises that results go to stdout and everything else to stderr, that
// -o json is stable, and that an error says what broke which rule and what to do next.
package cli
