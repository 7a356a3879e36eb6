//go:build !linux

package stream

import "errors"

// splicer exists on Linux only.
type splicer struct{}

func newSplicer(any, any) *splicer { return nil }

func (*splicer) move(int, func()) (int, error) { return 0, errors.ErrUnsupported }
