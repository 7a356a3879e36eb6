// Package keys keeps the encryption keys of shares as files of one directory: 32
// random bytes in <share>.key, for the eyes of the agent's user alone.
//
// It makes a key once, durably, and never overwrites, moves or removes one. What it
// gives away is a file's name, never its content: ZFS reads the key itself. Files that
// other people put into the directory count as soon as they are there.
package keys
