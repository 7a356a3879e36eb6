// Package demo walks through what tarn does on a cluster of real processes and
// checks every step on real bytes.
//
// It hides how the story is told: commands are run as a user would type them, and
// printed with the output they really had; checks go through the API and the files.
//
// It may import cmd/tarn/dev and what a client may.
//
// It promises that Run answers nil only if every check held.
package demo
