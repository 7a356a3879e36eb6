package zfs

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"
)

// sendingTable counts the streams that this host sends of each snapshot.
type sendingTable struct {
	mu    sync.Mutex
	count map[string]int
}

func (t *sendingTable) sending(snapshot string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count[snapshot] > 0
}

func (t *sendingTable) add(snapshots []string) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == nil {
		t.count = map[string]int{}
	}
	for _, s := range snapshots {
		t.count[s]++
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, s := range snapshots {
			if t.count[s]--; t.count[s] == 0 {
				delete(t.count, s)
			}
		}
	}
}

// sendInvocation validates a request and puts the command together; names are the
// snapshots and bookmarks that it reads.
func (h *Host) sendInvocation(req SendRequest) (inv invocation, names []string, err error) {
	if req.ResumeToken != "" {
		return h.resumeInvocation(req)
	}
	to := req.Dataset + "@" + req.To
	if _, _, err := h.allowSnapshot("send", to); err != nil {
		return inv, nil, err
	}
	args, names := append([]string{"send"}, req.Flags.options()...), []string{to}
	if req.From != "" {
		from := req.Dataset + req.From
		_, _, snapErr := ValidateSnapshot(from)
		_, _, markErr := ValidateBookmark(from)
		if snapErr != nil && markErr != nil {
			return inv, nil, &Error{Op: "send", Object: from, Class: ErrInvalid, Text: errors.Join(snapErr, markErr).Error()}
		}
		if markErr == nil && !h.build.bookmarks {
			return inv, nil, &Error{Op: "send", Object: from, Class: ErrUnsupported, Text: "this version has no bookmarks"}
		}
		args, names = append(args, "-i", from), append(names, from)
	}
	return invocation{op: "send", object: to, args: append(args, to)}, names, nil
}

func (h *Host) resumeInvocation(req SendRequest) (inv invocation, names []string, err error) {
	if !h.build.resume {
		return inv, nil, &Error{Op: "send", Object: "token", Class: ErrUnsupported, Text: "this version cannot resume"}
	}
	info, err := ParseToken(req.ResumeToken)
	if err != nil {
		return inv, nil, &Error{Op: "send", Object: "token", Class: ErrTokenInvalid, Text: err.Error()}
	}
	if err := h.allow("send", datasetOf(info.ToName)); err != nil {
		// Of a host that was the source before: what is missing is not this one's.
		return inv, nil, &Error{Op: "send", Object: info.ToName, Class: ErrTokenInvalid, Text: err.Error()}
	}
	return invocation{op: "send", object: info.ToName, args: []string{"send", "-t", req.ResumeToken}}, []string{info.ToName}, nil
}

// Estimate asks zfs for the size of the stream in bytes: one process that reads no
// data. 0 where the version cannot tell.
func (h *Host) Estimate(ctx context.Context, req SendRequest) (int64, error) {
	inv, _, err := h.sendInvocation(req)
	if err != nil || !h.build.dryRun {
		return 0, err
	}
	inv.op, inv.args = "estimate", append([]string{"send", "-nP"}, inv.args[1:]...)
	out, err := h.output(ctx, inv)
	if err != nil {
		return 0, h.sendError(ctx, req, err)
	}
	n, err := parseEstimate(string(out))
	if err != nil {
		return 0, unreadable("send", inv.object, err)
	}
	return n, nil
}

// sendError says which end of an increment is missing.
func (h *Host) sendError(ctx context.Context, req SendRequest, err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Class != ErrNotExist {
		return err
	}
	if req.From != "" && strings.Contains(e.Text, "'"+req.Dataset+req.From+"'") {
		return &Error{Op: e.Op, Object: e.Object, Class: ErrBaseMissing, Text: e.Text}
	}
	if req.ResumeToken != "" {
		return &Error{Op: e.Op, Object: e.Object, Class: ErrTokenInvalid, Text: e.Text}
	}
	return h.poolOrDataset(ctx, e.Object, err)
}

// sendStream is a running zfs send.
type sendStream struct {
	host    *Host
	process *process
	pipe    *os.File
	errs    *tail
	release func() // of the sending table
	unwatch func() bool

	once   sync.Once
	result error
}

// Send starts a stream. It returns when the first bytes are there or zfs has refused.
// The stream is a Filer. When ctx ends, so does it.
func (h *Host) Send(ctx context.Context, req SendRequest) (Stream, error) {
	inv, names, err := h.sendInvocation(req)
	if err != nil {
		return nil, err
	}
	s, err := h.startSend(ctx, inv, names)
	if err != nil {
		return nil, h.sendError(ctx, req, err)
	}
	if awaitReadable(s.pipe) {
		return s, nil
	}
	err = s.finish() // ended without a byte
	switch {
	case ctx.Err() != nil:
		return nil, &Error{Op: "send", Object: inv.object, Class: ctx.Err()}
	case err == nil:
		return nil, &Error{Op: "send", Object: inv.object, Class: ErrUnclassified, Text: "ended without a stream"}
	}
	return nil, h.sendError(ctx, req, err)
}

func (h *Host) startSend(ctx context.Context, inv invocation, names []string) (*sendStream, error) {
	if err := h.stuck.check(inv); err != nil {
		return nil, err
	}
	cmd, err := h.command(inv)
	if err != nil {
		return nil, err
	}
	give, err := h.sends.take(ctx)
	if err != nil {
		return nil, &Error{Op: "send", Object: inv.object, Class: err}
	}
	r, w, err := os.Pipe()
	if err != nil {
		give()
		return nil, &Error{Op: "send", Object: inv.object, Class: ErrUnclassified, Text: err.Error()}
	}
	growPipe(w)
	forget := h.held.add(names)
	s := &sendStream{host: h, pipe: r, errs: &tail{limit: stderrLimit}, release: func() { forget(); give() }}
	cmd.Stdout, cmd.Stderr = w, s.errs
	s.process, err = h.begin(inv, cmd)
	_ = w.Close() // the child's now
	if err != nil {
		_ = r.Close()
		s.release()
		return nil, h.explain(ctx, inv, time.Now(), err, "")
	}
	s.unwatch = context.AfterFunc(ctx, s.abandon)
	return s, nil
}

// abandon kills zfs send and lets its reader go, also where the kernel keeps the process
// and with it the pipe: on a suspended pool neither ends.
func (s *sendStream) abandon() {
	s.process.kill()
	_ = s.pipe.SetReadDeadline(time.Now().Add(killGrace)) // an error: it was closed
}

// File is the pipe that the stream comes out of.
func (s *sendStream) File() *os.File { return s.pipe }

func (s *sendStream) Read(p []byte) (int, error) { return s.pipe.Read(p) }

// Close waits for zfs and returns its error. A stream that is not at its end is
// cancelled, which is no error.
func (s *sendStream) Close() error {
	return s.finish()
}

func (s *sendStream) finish() error {
	s.once.Do(func() {
		cancelled := !atEnd(s.pipe)
		// Closed before the wait: a sender that is stuck in a write to the pipe cannot
		// be killed otherwise.
		_ = s.pipe.Close()
		if cancelled {
			s.process.kill()
		}
		ended := s.host.stuck.leave(s.process, s.host.deadline)
		s.unwatch()
		s.release()
		s.result = s.judge(cancelled, ended)
		s.host.note(s.process.inv, s.process.began, s.result)
	})
	return s.result
}

func (s *sendStream) judge(cancelled, ended bool) error {
	switch {
	case !ended:
		return s.host.hung(s.process.inv, s.process.began)
	case cancelled || s.process.err == nil:
		return nil
	}
	return s.host.explain(context.Background(), s.process.inv, s.process.began, s.process.err, s.errs.String())
}
