package zfs

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Screen copies a stream from one file to another, through the kernel if both are pipes,
// and closes to. It is for a Launcher's other side, which must not believe that the caller
// looked: what Host.Receive refuses because of its first record (ErrStreamRefused, as
// properties and clones of other data) goes no further, not even in part, nor what judge
// refuses besides, and head is told first, with nil or why. What follows the first record can
// do no more than fail.
func Screen(to, from *os.File, judge func(StreamHeader) error, head func(error)) (err error) {
	defer func() { err = errors.Join(err, to.Close()) }()
	growPipe(to)
	first := make([]byte, StreamHeadSize)
	_, err = io.ReadFull(from, first)
	if err == nil {
		err = screenHead(first, judge)
	}
	head(err)
	if err != nil {
		return err
	}
	if _, err := to.Write(first); err != nil {
		return err
	}
	if done, err := spliceAll(to, from, func(int) {}); done {
		return err
	}
	_, err = io.Copy(to, from)
	return err
}

func screenHead(first []byte, judge func(StreamHeader) error) error {
	header, err := ParseStreamHeader(first)
	if err == nil {
		err = header.acceptable(header.ToGUID, header.Flags.Raw)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStreamRefused, err)
	}
	return judge(header)
}
