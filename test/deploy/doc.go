// Package deploy builds the Debian package, installs it into a fresh root and runs what
// its units run; and it judges the units. It has tests only.
package deploy
