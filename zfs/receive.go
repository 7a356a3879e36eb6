package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// copyGrace is how long Receive waits for the reader of its stream after zfs receive
// has ended.
const copyGrace = time.Second

// lastWrites is how many deadlines of a command zfs receive may take to write what it has
// read, after the end of its stream.
const lastWrites = 5

// receivePatience is the default of Config.ReceivePatience, what the sender's host has for
// a receiver that takes nothing.
const receivePatience = 10 * time.Minute

// Receive reads one stream to its end. The first record is looked at before zfs sees
// it: streams with properties, clones, volumes and other snapshots than the expected
// one are refused (ErrStreamRefused). The rest is copied with io.Copy into a pipe of
// 1 MiB: a reader with WriteTo may splice into the Inlet that it is given, and a Filer
// of a pipe is spliced from. A zfs receive that takes nothing of what waits for it is
// ended after Config.ReceivePatience (ErrStalled); a stream that brings nothing is not
// its business.
//
// Nothing is mounted. A failure to mount is none. When ctx ends, zfs receive is killed
// and waited for; what arrived stays if the receive is resumable. A Read of stream that
// is in progress when Receive fails may outlast it until the caller closes the stream.
func (h *Host) Receive(ctx context.Context, req ReceiveRequest, stream io.Reader) error {
	if _, _, err := h.allowSnapshot("receive", req.Target); err != nil {
		return err
	}
	head := make([]byte, StreamHeadSize)
	n, err := io.ReadFull(stream, head)
	if err != nil {
		text := fmt.Sprintf("%d bytes arrived: %v", n, err)
		return &Error{Op: "receive", Object: req.Target, Class: ErrStreamTruncated, Text: text}
	}
	header, err := ParseStreamHeader(head)
	if err != nil {
		return &Error{Op: "receive", Object: req.Target, Class: ErrStreamCorrupt, Text: err.Error()}
	}
	if err := header.acceptable(req.Expect, req.Raw); err != nil {
		return &Error{Op: "receive", Object: req.Target, Class: ErrStreamRefused, Text: err.Error(), Next: "look at the sending host: tarn does not send such streams"}
	}
	if err := h.precheck(ctx, req, header); err != nil {
		return err
	}
	inv, err := h.receiveInvocation(req, header)
	if err != nil {
		return err
	}
	if h.isFuse() {
		stream = newGuard(head, stream)
	}
	return h.settleReceive(ctx, req, header, h.feed(ctx, inv, head, stream))
}

func (h *Host) receiveInvocation(req ReceiveRequest, header StreamHeader) (invocation, error) {
	args := []string{"receive", "-u"}
	if req.Resumable && h.resumable(poolOf(req.Target)) {
		args = append(args, "-s")
	}
	if header.FromGUID == 0 {
		options, err := h.options("receive", req.Target, atRest(req.Properties))
		if err != nil {
			return invocation{}, err
		}
		for _, o := range options {
			if h.build.receiveOptions {
				args = append(args, "-o", o)
			}
		}
	}
	return invocation{op: "receive", object: req.Target, args: append(args, req.Target)}, nil
}

// precheck is for zfs-fuse, which puts an increment for a dataset that is not there
// into whatever dataset of the pool has its base, and whose errors do not tell a
// taken name from a forked history.
func (h *Host) precheck(ctx context.Context, req ReceiveRequest, header StreamHeader) error {
	if h.build.receiveOptions || header.FromGUID == 0 {
		return nil
	}
	list := req.Have
	if list == nil {
		var err error
		if list, err = h.Versions(ctx, datasetOf(req.Target)); err != nil {
			return err
		}
	}
	for _, v := range list {
		if v.FullName() == req.Target {
			return &Error{Op: "receive", Object: req.Target, Class: ErrExists}
		}
	}
	if newest, ok := newestSnapshot(list); !ok || newest.GUID != header.FromGUID {
		return &Error{Op: "receive", Object: req.Target, Class: ErrDiverged, Text: fmt.Sprintf("it is %v, the stream's base %v", newest.GUID, header.FromGUID)}
	}
	return nil
}

// feed runs zfs receive and copies head and the rest of the stream into it. A failure
// of the stream itself explains more than what zfs says of it.
func (h *Host) feed(ctx context.Context, inv invocation, head []byte, stream io.Reader) error {
	if err := h.stuck.check(inv); err != nil {
		return err
	}
	cmd, err := h.command(inv)
	if err != nil {
		return err
	}
	give, err := h.receives.take(ctx) // after the first bytes: the sender has its slot
	if err != nil {
		return &Error{Op: "receive", Object: inv.object, Class: err}
	}
	defer give()
	defer h.receiving.begin()()
	w, r, err := newInlet()
	if err != nil {
		return inv.refuse(ErrUnclassified, err.Error())
	}
	out, errs := &tail{limit: stderrLimit}, &tail{limit: stderrLimit}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, out, errs
	began := time.Now()
	p, err := h.begin(inv, cmd)
	_ = r.Close() // the child's now
	if err != nil {
		_ = w.Close()
		return h.explain(ctx, inv, began, err, "")
	}
	copied, fed := make(chan error, 1), make(chan struct{})
	go func() {
		copied <- errors.Join(pump(w, head, stream), w.Close())
		close(fed)
	}()
	err = h.awaitReceive(ctx, p, w, fed)
	broken := copyError(copied)
	if err != nil && !errors.Is(err, ErrHung) && !errors.Is(err, ErrStalled) {
		err = h.explain(ctx, inv, began, err, errs.String())
		if broken != nil && ctx.Err() == nil {
			class := ErrStreamTruncated
			if errors.Is(broken, errRecord) {
				class = ErrStreamCorrupt
			}
			err = inv.refuse(class, broken.Error())
		}
	}
	h.note(inv, began, err)
	return err
}

// awaitReceive waits for zfs receive for as long as it takes what comes, however long that
// lasts, and for a bounded time after that. When it is killed it may have to finish a
// transaction group.
func (h *Host) awaitReceive(ctx context.Context, p *process, w *inlet, fed <-chan struct{}) error {
	stuck := h.afterFed(p, fed)
	select {
	case <-p.done:
	case n := <-w.untaken(h.stall, p.done):
		_ = w.Close()
		p.kill()
		if !h.stuck.leave(p, h.deadline) {
			return h.hung(p.inv, p.began)
		}
		if p.err != nil {
			return h.stalled(p.inv, n)
		}
	case <-stuck:
		p.kill()
		if !h.stuck.leave(p, killGrace) || p.err != nil {
			return h.hung(p.inv, p.began)
		}
	case <-ctx.Done():
		_ = w.Close()
		p.kill()
		if !h.stuck.leave(p, h.deadline) {
			return h.hung(p.inv, p.began)
		}
		if p.err != nil {
			return ctx.Err()
		}
	}
	return p.err
}

// afterFed tells when zfs receive has had the whole stream for too long: zfs-fuse
// sometimes waits for ever for more of a damaged one.
func (h *Host) afterFed(p *process, fed <-chan struct{}) <-chan time.Time {
	patience := lastWrites * h.deadline
	if h.isFuse() {
		patience = h.deadline / 4
	}
	stuck := make(chan time.Time, 1)
	go func() {
		select {
		case <-p.done:
			return
		case <-fed:
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-p.done:
		case now := <-timer.C:
			stuck <- now
		}
	}()
	return stuck
}

// stalled is the error of a receive that left n bytes in its pipe, and has been ended.
func (h *Host) stalled(inv invocation, n int64) error {
	pool := poolOf(inv.object)
	e := inv.refuse(ErrStalled, fmt.Sprintf("it took none of the %d bytes that waited for it in %v, and was ended; what it had taken before stays where the pool can keep it", n, h.stall))
	e.Next = fmt.Sprintf("zpool status %s and zpool iostat %s 5: is a disk slow, or does the pool delete very much? A pool that is only slow needs a longer stream.receive_timeout here, and as long a stream.stall_timeout at the source", pool, pool)
	return e
}

// pump moves the stream into the pipe, through the kernel where it can.
func pump(w *inlet, head []byte, stream io.Reader) error {
	if _, err := w.Write(head); err != nil {
		return err
	}
	if f, ok := stream.(Filer); ok {
		if done, err := spliceAll(w.File(), f.File(), w.Gave); done {
			return err
		}
	}
	_, err := io.Copy(w, stream)
	return err
}

// copyError is why the stream could not be read to its end, nil when it was zfs that
// stopped reading.
func copyError(copied <-chan error) error {
	grace := time.NewTimer(copyGrace)
	defer grace.Stop()
	select {
	case err := <-copied:
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
			return nil
		}
		return err
	case <-grace.C:
		return nil
	}
}

// settleReceive judges by what is there.
func (h *Host) settleReceive(ctx context.Context, req ReceiveRequest, header StreamHeader, err error) error {
	dataset := datasetOf(req.Target)
	switch {
	case err == nil:
		if header.FromGUID == 0 && !h.build.receiveOptions {
			return h.Set(ctx, dataset, atRest(req.Properties))
		}
		return h.showReceived(ctx, dataset)
	case errors.Is(err, ErrNotMounted): // everything else has worked
		if _, getErr := h.run(ctx, "get", req.Target, "get", "-H", "-o", "value", "guid", req.Target); getErr == nil {
			return nil
		}
	case errors.Is(err, ErrNotExist):
		return h.poolOrDataset(ctx, req.Target, err)
	case errors.Is(err, ErrExists):
		if d, getErr := h.Dataset(ctx, dataset); getErr == nil && d.ResumeToken != "" {
			return &Error{Op: "receive", Object: req.Target, Class: ErrResumable}
		}
	case errors.Is(err, ErrModified) && header.FromGUID == 0: // another receive made it a moment ago
		return &Error{Op: "receive", Object: req.Target, Class: ErrExists}
	case errors.Is(err, ErrModified):
		if list, listErr := h.Versions(ctx, dataset); listErr == nil {
			if newest, ok := newestSnapshot(list); ok && newest.GUID != header.FromGUID {
				return &Error{Op: "receive", Object: req.Target, Class: ErrDiverged, Text: fmt.Sprintf("it is %v, the stream's base %v", newest.GUID, header.FromGUID)}
			}
		}
	}
	return err
}

// AbortReceive drops half-received state; ErrNotResumable when there is none. Of a full
// stream the dataset goes with it.
func (h *Host) AbortReceive(ctx context.Context, dataset string) error {
	if err := h.allow("receive", dataset); err != nil {
		return err
	}
	if !h.build.resume {
		return &Error{Op: "receive", Object: dataset, Class: ErrNotResumable, Text: "this version keeps none"}
	}
	_, err := h.run(ctx, "receive", dataset, "receive", "-A", dataset)
	return err
}
