// Package adoption takes real datasets over that other tools made and replicated, and
// gives them back. It has tests only.
package adoption
