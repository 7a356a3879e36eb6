package privsep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"tarn/agent/export"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Client asks the helper. It keeps nothing between calls, so that the helper may be
// restarted at any time. Safe for concurrent use.
type Client struct {
	// Socket is the helper's; absolute.
	Socket string
}

// patience bounds connecting, asking and being told that a call has begun.
const patience = 30 * time.Second

// unreachable names the next step.
func (c Client) unreachable(verb string, err error) error {
	return &zfs.Error{
		Op: verb, Object: c.Socket, Class: zfs.ErrToolMissing, Text: "the helper does not answer: " + err.Error(),
		Next: "start it: systemctl start tarn-helper.service; its log says what it refuses",
	}
}

// ask opens a call. The connection is the caller's.
func (c Client) ask(ctx context.Context, asked call, files ...*os.File) (*net.UnixConn, error) {
	dial, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	opened, err := new(net.Dialer).DialContext(dial, "unix", c.Socket)
	if err != nil {
		return nil, c.unreachable(asked.Verb, err)
	}
	conn := opened.(*net.UnixConn)
	err = conn.SetDeadline(time.Now().Add(patience))
	if err == nil {
		err = send(conn, asked, files...)
	}
	if err != nil {
		_ = conn.Close()
		return nil, c.unreachable(asked.Verb, err)
	}
	return conn, nil
}

// hear reads one answer.
func hear(conn *net.UnixConn) (answer, error) {
	body, files, err := receive(conn)
	closeAll(files)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return answer{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	return a, nil
}

func (a answer) err(verb, object string) error {
	switch {
	case a.Refused != "":
		return &zfs.Error{Op: verb, Object: object, Class: zfs.ErrPermission, Text: a.Refused, Next: "the helper's configuration says what it may do"}
	case a.Failed != "":
		class, ok := classes[a.Class]
		if !ok {
			class = zfs.ErrUnclassified
		}
		return &zfs.Error{Op: verb, Object: object, Class: class, Text: a.Failed}
	}
	return nil
}

// Launch starts zfs(8) or zpool(8), as zfs.Launcher has it.
func (c Client) Launch(tool string, args []string, stdin, stdout, stderr *os.File) (zfs.Launched, error) {
	if stdin == nil {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		defer null.Close()
		stdin = null
	}
	return c.begin(call{Verb: tool, Args: args}, stdin, stdout, stderr)
}

// StartDeadman starts the process that ends service at the end of a lease, with root's
// rights and a life of its own. It reads from orders and writes to answers.
func (c Client) StartDeadman(orders, answers *os.File) (*Process, error) {
	return c.begin(call{Verb: verbDeadman}, orders, answers)
}

func (c Client) begin(asked call, files ...*os.File) (*Process, error) {
	conn, err := c.ask(context.Background(), asked, files...)
	if err != nil {
		return nil, err
	}
	a, err := hear(conn)
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close()
		return nil, c.unreachable(asked.Verb, err)
	}
	if err := a.err(asked.Verb, object(asked)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &Process{conn: conn, verb: asked.Verb, object: object(asked)}, nil
}

// object is what a call is about, for messages: the last of its arguments.
func object(c call) string {
	if len(c.Args) == 0 {
		return ""
	}
	return c.Args[len(c.Args)-1]
}

// Process is one that the helper started.
type Process struct {
	conn         *net.UnixConn
	verb, object string
	writing      sync.Mutex
}

// Wait gives nil, a zfs.ExitStatus or a *zfs.Error. It is called once.
func (p *Process) Wait() error {
	defer p.conn.Close()
	a, err := hear(p.conn)
	switch {
	case err != nil:
		return &zfs.Error{
			Op: p.verb, Object: p.object, Class: zfs.ErrUnclassified, Text: "the helper went away: what it was doing may go on: " + err.Error(),
			Next: "start it: systemctl start tarn-helper.service",
		}
	case a.Status != "":
		return zfs.ExitStatus(a.Status)
	}
	return a.err(p.verb, p.object)
}

// Kill ends the process and those that it started; it does not wait.
func (p *Process) Kill() {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.conn.SetWriteDeadline(time.Now().Add(patience)) == nil {
		_ = send(p.conn, call{Kill: true}) // an error: it has ended
	}
}

// do is a call that is answered at once.
func (c Client) do(ctx context.Context, asked call) (answer, error) {
	conn, err := c.ask(ctx, asked)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(longest)); err != nil {
		return answer{}, err
	}
	a, err := hear(conn)
	if err != nil {
		return answer{}, errors.Join(ctx.Err(), c.unreachable(asked.Verb, err))
	}
	return a, a.err(asked.Verb, object(asked))
}

// longest is how long a call without a process may take: servers are waited for.
const longest = time.Minute

func mode(readOnly bool) string {
	if readOnly {
		return "ro"
	}
	return "rw"
}

// Remount as zfs.Launcher has it.
func (c Client) Remount(ctx context.Context, dataset string, readOnly bool) error {
	_, err := c.do(ctx, call{Verb: verbRemount, Args: []string{mode(readOnly), dataset}})
	return err
}

// Unmount as zfs.Launcher has it.
func (c Client) Unmount(ctx context.Context, dataset string) error {
	_, err := c.do(ctx, call{Verb: verbUnmount, Args: []string{dataset}})
	return err
}

// Holders as zfs.Launcher has it.
func (c Client) Holders(ctx context.Context, device string) ([]string, error) {
	a, err := c.do(ctx, call{Verb: verbHolders, Args: []string{device}})
	return a.Holders, err
}

// Apply has the helper's server export a mountpoint (export.Kernel.Apply).
func (c Client) Apply(ctx context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	exports, err := proto.Marshal(want)
	if err != nil {
		return nil, nil, fmt.Errorf("encode exports: %w", err)
	}
	a, err := c.do(ctx, call{Verb: verbApply, Args: []string{mode(readOnly), mountpoint}, Exports: exports})
	if err != nil {
		return nil, nil, err
	}
	reported, err := decodeAll(a.Reported, func() *tarnv1.ReportedExport { return new(tarnv1.ReportedExport) })
	if err != nil {
		return nil, nil, err
	}
	rules, err := decodeAll(a.Rules, func() *tarnv1.RuleError { return new(tarnv1.RuleError) })
	return reported, rules, err
}

// Remove takes a mountpoint away from all clients.
func (c Client) Remove(ctx context.Context, mountpoint string) error {
	_, err := c.do(ctx, call{Verb: verbRemove, Args: []string{mountpoint}})
	return err
}

// List gives what is exported.
func (c Client) List(ctx context.Context) ([]export.Export, error) {
	a, err := c.do(ctx, call{Verb: verbExported})
	if err != nil {
		return nil, err
	}
	var list []export.Export
	if err := json.Unmarshal(a.Exported, &list); err != nil {
		return nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	return list, nil
}

// Run returns when ctx ends: the servers are the helper's to keep alive.
func (c Client) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func decodeAll[M proto.Message](all [][]byte, empty func() M) ([]M, error) {
	var out []M
	for _, data := range all {
		m := empty()
		if err := proto.Unmarshal(data, m); err != nil {
			return nil, fmt.Errorf("%w: %w", errMessage, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func encodeAll[M proto.Message](all []M) ([][]byte, error) {
	var out [][]byte
	for _, m := range all {
		data, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}
