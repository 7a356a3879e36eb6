// Package tree is the content-addressed form of a directory tree: a root object
// that names a directory, directories cut into segments of entries, files cut into
// chunks. An object's hash covers all below it, so unchanged parts are shared.
//
// It is pure: bytes in, values out. Decoders accept any input and refuse what
// could write outside the tree (names with slashes, "..", NUL) or is not canonical:
// one value has one encoding.
package tree
