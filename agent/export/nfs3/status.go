package nfs3

import (
	"errors"
	"io/fs"
	"syscall"
)

// status is an answer of NFS version 3 (RFC 1813, 2.6). As an error it says what
// the client is told.
type status uint32

const (
	statusOK          status = 0
	statusPerm        status = 1
	statusNoEnt       status = 2
	statusIO          status = 5
	statusAcces       status = 13
	statusExist       status = 17
	statusXDev        status = 18
	statusNotDir      status = 20
	statusIsDir       status = 21
	statusInval       status = 22
	statusFBig        status = 27
	statusNoSpc       status = 28
	statusROFS        status = 30
	statusMLink       status = 31
	statusNameTooLong status = 63
	statusNotEmpty    status = 66
	statusDQuot       status = 69
	statusStale       status = 70
	statusBadHandle   status = 10001
	statusNotSync     status = 10002
	statusNotSupp     status = 10004
	statusTooSmall    status = 10005
	statusBadType     status = 10007
	statusJukebox     status = 10008
)

func (s status) Error() string { return "NFS status " + itoa(uint32(s)) }

func itoa(v uint32) string {
	if v < 10 {
		return string(rune('0' + v))
	}
	return itoa(v/10) + string(rune('0'+v%10))
}

// errnos maps what the system says; the first that fits counts.
var errnos = []struct {
	err error
	status
}{
	{syscall.EPERM, statusPerm}, {syscall.EACCES, statusAcces}, {syscall.EROFS, statusROFS}, {syscall.ENOTDIR, statusNotDir},
	{syscall.EISDIR, statusIsDir}, {syscall.ENOSPC, statusNoSpc}, {syscall.EDQUOT, statusDQuot}, {syscall.EFBIG, statusFBig},
	{syscall.ENAMETOOLONG, statusNameTooLong}, {syscall.ENOTEMPTY, statusNotEmpty}, {syscall.EXDEV, statusXDev},
	{syscall.EMLINK, statusMLink}, {syscall.EINVAL, statusInval}, {syscall.ESTALE, statusStale}, {syscall.ELOOP, statusAcces},
	// Nothing is wrong with the file: what a client has for it is not to be given up.
	{syscall.EMFILE, statusJukebox}, {syscall.ENFILE, statusJukebox}, {syscall.ENOMEM, statusJukebox},
	{fs.ErrNotExist, statusNoEnt}, {fs.ErrExist, statusExist}, {fs.ErrPermission, statusAcces},
}

// statusOf is what a client is told about an error. What it is not to know (a
// path that would leave the tree, a failing disk) is an I/O error.
func statusOf(err error) status {
	if err == nil {
		return statusOK
	}
	if s, ok := errors.AsType[status](err); ok {
		return s
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.status
		}
	}
	return statusIO
}
