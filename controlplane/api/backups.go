package api

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"tarn/controlplane/backup"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

const (
	// backupPiece is how much of a backup one answer carries, in bytes.
	backupPiece = 1 << 20
	// maxDownloads at a time on one node: each holds on to a state.
	maxDownloads = 4
	// downloadLife is how long a download may rest before it is forgotten.
	downloadLife = 2 * time.Minute
)

// downloads are the backups being read from this node. The zero value works.
type downloads struct {
	mu   sync.Mutex
	open []*download
}

// download is a state of one moment on its way to somebody. Its mutex is held while
// a piece is made.
type download struct {
	id   string
	used time.Time   // guarded by downloads.mu
	rest *time.Timer // ends it when it has rested for long; set by downloads.add

	mu    sync.Mutex
	next  func() ([]byte, error, bool)
	stop  func()
	piece *tarnv1.ReadBackupResponse // the one handed out last
	count uint64                     // its number
	ahead []byte                     // the one after it; nil: there is none
}

// ReadBackup implements tarnv1connect.OperatorServiceHandler. On the leader, so that
// a backup holds everything that was acknowledged before it began.
func (s *operators) ReadBackup(ctx context.Context, req *tarnv1.ReadBackupRequest) (*tarnv1.ReadBackupResponse, error) {
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	if req.GetId() != "" {
		d, ok := s.backups.find(req.GetId(), time.Now())
		if !ok {
			return nil, notFound("backup", req.GetId())
		}
		return d.read(req.GetPiece())
	}
	d, err := s.newDownload()
	if err != nil {
		return nil, err
	}
	s.backups.add(d, time.Now())
	s.Logger.Info("a backup of the state is read", "actor", callerFrom(ctx).actor(), "backup", d.id)
	return d.read(0)
}

func (s *operators) newDownload() (*download, error) {
	v := s.State.View()
	next, stop := iter.Pull2(backup.Chunks(s.backupInfo(v), v, backupPiece))
	d := &download{id: newID(), next: next, stop: stop}
	if err := d.advance(); err != nil {
		stop()
		return nil, err
	}
	d.piece = nil // piece 0 is still ahead
	return d, nil
}

func (s *operators) backupInfo(v *raftfsm.View) backup.Info {
	_, _, term := s.Cluster.Leader()
	info := backup.Describe(v)
	info.TakenAt, info.Version, info.NodeID, info.Term = time.Now().UTC(), s.Version, s.NodeID, term
	// Who takes part is told as far as it is known: a restore asks these first.
	servers, _ := s.Cluster.Servers()
	for _, m := range servers {
		info.Servers = append(info.Servers, backup.Server{ID: m.ID, Address: m.Addr, Voter: m.Voter})
	}
	return info
}

// advance makes the piece after the present one.
func (d *download) advance() error {
	data, err, ok := d.next()
	if err != nil {
		return err
	}
	d.ahead = nil
	if ok {
		d.ahead = slices.Clone(data)
	}
	return nil
}

// read returns the piece with the number: the next one, or the last one again.
func (d *download) read(number uint64) (*tarnv1.ReadBackupResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.piece != nil && number == d.count:
		return d.piece, nil
	case d.piece == nil && number == 0:
	case d.piece != nil && !d.piece.GetLast() && number == d.count+1:
		d.count = number
	default:
		return nil, refused("piece", "pieces are read one after the other; begin again without an id")
	}
	data := d.ahead
	if err := d.advance(); err != nil {
		return nil, err
	}
	d.piece = &tarnv1.ReadBackupResponse{Id: d.id, Data: data, Last: d.ahead == nil}
	return d.piece, nil
}

func (l *downloads) find(id string, now time.Time) (*download, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.open {
		if d.id == id {
			d.used = now
			d.rest.Reset(downloadLife)
			return d, true
		}
	}
	return nil, false
}

// add takes a download in. One that rests for long ends, and with too many of them the
// one that rests longest.
func (l *downloads) add(d *download, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.used, d.rest = now, time.AfterFunc(downloadLife, func() { l.forget(d, time.Now()) })
	l.open = append(l.open, d)
	slices.SortFunc(l.open, func(a, b *download) int { return b.used.Compare(a.used) })
	for len(l.open) > maxDownloads {
		last := l.open[len(l.open)-1]
		last.rest.Stop()
		last.end()
		l.open = l.open[:len(l.open)-1]
	}
}

// forget ends a download unless it was used a moment ago, after its rest was over.
func (l *downloads) forget(d *download, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(d.used) < downloadLife {
		return
	}
	l.open = slices.DeleteFunc(l.open, func(other *download) bool { return other == d })
	d.end()
}

var errBackupEnded = connect.NewError(connect.CodeUnavailable, errors.New("the copy was given up; begin again"))

// end gives the state free, in its own time: a piece may be in the making.
func (d *download) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop()
	d.ahead, d.next = nil, func() ([]byte, error, bool) { return nil, errBackupEnded, false }
}
