package privsep

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"tarn/zfs"
)

// A message is four bytes of length, most significant first, and a JSON object. The files
// of a call travel with its first byte (SCM_RIGHTS).
//
//	agent   call, with files
//	helper  answer: refused, or started
//	agent   kill, any time after that; hanging up changes nothing
//	helper  answer: ended

// Verbs besides zfs and zpool.
const (
	verbRemount  = "remount"  // args: dataset, ro or rw
	verbUnmount  = "unmount"  // args: dataset
	verbHolders  = "holders"  // args: device
	verbDeadman  = "deadman"  // with two files: orders, answers
	verbApply    = "apply"    // args: mountpoint, ro or rw; exports
	verbRemove   = "remove"   // args: mountpoint
	verbExported = "exported" // no args
)

// classes are the failures that an agent has to tell apart.
var classes = map[string]error{"busy": zfs.ErrBusy, "not mounted": zfs.ErrNotMounted}

// classOf is the key of err in classes.
func classOf(err error) string {
	for key, class := range classes {
		if errors.Is(err, class) {
			return key
		}
	}
	return ""
}

// call is what the agent asks for.
type call struct {
	Verb string   `json:"verb"`
	Args []string `json:"args,omitempty"`
	// Exports is a tarn.v1.Exports.
	Exports []byte `json:"exports,omitempty"`
	Kill    bool   `json:"kill,omitempty"`
}

// answer is what became of it.
type answer struct {
	Started bool `json:"started,omitempty"`
	Ended   bool `json:"ended,omitempty"`
	// Status is how a tool ended when not well.
	Status string `json:"status,omitempty"`
	// Refused says why nothing was done; Failed what went wrong with it.
	Refused string `json:"refused,omitempty"`
	Failed  string `json:"failed,omitempty"`
	// Class is what kind of failure, a key of classes; "" for all others.
	Class string `json:"class,omitempty"`

	Holders []string `json:"holders,omitempty"`
	// Reported are tarn.v1.ReportedExport, Rules tarn.v1.RuleError.
	Reported [][]byte        `json:"reported,omitempty"`
	Rules    [][]byte        `json:"rules,omitempty"`
	Exported json.RawMessage `json:"exported,omitempty"`
}

const (
	// maxMessage has room for the longest command of package zfs, 512 KiB.
	maxMessage = 1 << 20
	maxArgs    = 16 << 10
	maxFiles   = 3
)

var errMessage = errors.New("bad message")

// decodeCall reads what came over the socket; nothing in it is trusted after that either.
func decodeCall(data []byte) (call, error) {
	var c call
	if err := json.Unmarshal(data, &c); err != nil {
		return call{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	if len(c.Args) > maxArgs {
		return call{}, fmt.Errorf("%w: %d arguments", errMessage, len(c.Args))
	}
	for _, a := range c.Args {
		for i := range len(a) {
			if a[i] == 0 {
				return call{}, fmt.Errorf("%w: argument with a NUL byte", errMessage)
			}
		}
	}
	return c, nil
}

// send writes one message, with files if there are any.
func send(conn *net.UnixConn, message any, files ...*os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxMessage {
		return fmt.Errorf("%w: %d bytes", errMessage, len(body))
	}
	var rights []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fd := int(f.Fd())
			// Tools expect to wait in read and write.
			if err := syscall.SetNonblock(fd, false); err != nil {
				return fmt.Errorf("hand over a file: %w", err)
			}
			fds = append(fds, fd)
		}
		rights = syscall.UnixRights(fds...)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, _, err := conn.WriteMsgUnix(head, rights, nil); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	if _, err := conn.Write(body); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// receive reads one message and the files that came with it, which are the caller's to close.
func receive(conn *net.UnixConn) (body []byte, files []*os.File, err error) {
	head, oob := make([]byte, 4), make([]byte, syscall.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := conn.ReadMsgUnix(head, oob)
	files = filesOf(oob[:oobn])
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && flags&syscall.MSG_CTRUNC != 0 {
		err = fmt.Errorf("%w: more than %d files", errMessage, maxFiles)
	}
	if err == nil {
		_, err = io.ReadFull(conn, head[n:])
	}
	size := binary.BigEndian.Uint32(head)
	if err == nil && size > maxMessage {
		err = fmt.Errorf("%w: %d bytes", errMessage, size)
	}
	if err == nil {
		body = make([]byte, size)
		_, err = io.ReadFull(conn, body)
	}
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return body, files, nil
}

func filesOf(oob []byte) []*os.File {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
