package replicate

import (
	"strings"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// tellsRenamed reports that the control plane hears where the dataset is, and what to do.
func (h *testHost) tellsRenamed(now string) func() bool {
	return func() bool {
		e := h.report().GetError()
		return e.GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_MISSING && e.GetRetrying() &&
			strings.Contains(e.GetMessage(), "zfs rename "+now+" "+h.dataset())
	}
}

func (h *testHost) rename(from, to string) {
	h.c.t.Helper()
	h.c.must(h.fs.Rename(h.c.t.Context(), from, to))
}

// absent fails the test if there is anything under the replica's name, or on its way.
func (h *testHost) absent() {
	h.c.t.Helper()
	for _, name := range []string{h.dataset(), h.root() + "/" + stagingDir + "/" + h.replica} {
		if d, _, there := h.fs.Peek(name); there {
			h.c.t.Errorf("%s was made: %v", name, d)
		}
	}
}

func TestRenamedCopy(t *testing.T)      { renamedCopy(t, onDirectory) }
func TestRenamedCopyOnZFS(t *testing.T) { onReal(t, renamedCopy) }

// renamedCopy: an administrator renames a copy's dataset while its agent runs. Nothing is
// sent anew, what is there stays as it is; after a restart, too. Renamed back it goes on.
func renamedCopy(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	head, away := b.head(), b.pool+"/kept"
	b.rename(b.dataset(), away)
	a.write("two\n")
	c.until("the copy tells that it was renamed", b.tellsRenamed(away))
	b.absent()
	as := b.secondary(1, a)
	as.Established = true
	b.assign(as)
	b.kill()
	b.start()
	c.until("and after a restart", b.tellsRenamed(away))
	b.absent()
	if list := b.snapshots(away); len(list) == 0 || uint64(list[len(list)-1].GUID) != head {
		t.Errorf("the renamed dataset changed: %v, had %d", list, head)
	}
	b.rename(away, b.dataset())
	c.until("in sync when it is back", inSync(a, b))
	c.until("nothing is told any more", func() bool { return b.report().GetError() == nil })
	if n := b.heard("full"); n != 1 {
		t.Errorf("everything was sent %d times", n)
	}
	// Who takes the mark off, or destroys it, gets a new copy, and keeps the old one.
	b.rename(b.dataset(), away)
	a.write("three\n")
	c.until("told again", b.tellsRenamed(away))
	c.must(b.fs.Inherit(t.Context(), away, markReplica))
	c.until("a new copy", inSync(a, b))
	if len(b.snapshots(away)) == 0 {
		t.Error("the old copy is gone")
	}
	a.clean()
	b.clean()
}

func TestRenamedPrimary(t *testing.T)      { renamedPrimary(t, onDirectory) }
func TestRenamedPrimaryOnZFS(t *testing.T) { onReal(t, renamedPrimary) }

// renamedPrimary: the same of the dataset that clients write to. They are let in to nothing
// that lies in its place, its copy keeps what it has, and no empty share is made.
func renamedPrimary(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	copied, away := b.head(), a.root()+"/mine"
	a.rename(a.dataset(), away)
	c.until("the owner tells that it was renamed", a.tellsRenamed(away))
	c.until("nobody is let in any more", func() bool { _, open := a.exported(); return !open })
	if a.report().GetWritable() {
		t.Error("it says that it can be written")
	}
	a.absent()
	as := a.active(1)
	as.Established = true
	a.assign(as)
	a.kill()
	a.start()
	c.until("and after a restart", a.tellsRenamed(away))
	a.absent()
	if b.head() != copied || len(b.report().GetDivergentCopies()) != 0 {
		t.Errorf("the copy changed: %v", b.report())
	}
	a.rename(away, a.dataset())
	c.until("writable when it is back", func() bool { return a.report().GetWritable() && a.report().GetError() == nil })
	a.write("two\n")
	c.until("in sync when it is back", inSync(a, b))
	if _, has := b.held(copied); !has {
		t.Error("the copy was made anew")
	}
	a.clean()
	b.clean()
}

// TestRenamedAtRest: retention, which looks at every replica each minute, notices that the
// dataset of a share that nobody writes to is not there any more.
func TestRenamedAtRest(t *testing.T) {
	c := newCluster(t, 1)
	h := c.hosts[0]
	h.start()
	w, name := h.worker, h.dataset()
	h.kill()
	w.cfg.Survey = NewSurvey(h.fs, h.root())
	known := marks{share: c.share, replica: h.replica, role: roleReplica, epoch: 1}
	look := func(ds zfs.Dataset, versions []zfs.Version) bool {
		w.changed, w.pruned = false, upkeep{}
		w.s.a, w.s.f = h.secondary(1, h), facts{ds: &ds, versions: versions, marks: known}
		w.maintain(t.Context())
		return w.changed
	}
	if !look(zfs.Dataset{Name: name, ReadOnly: true}, []zfs.Version{{Kind: zfs.KindSnapshot, Dataset: name, Name: "tarn.1", GUID: 7}}) {
		t.Error("with another name it goes unnoticed")
	}
	c.must(h.fs.Create(t.Context(), name, known.properties(), true))
	c.must(h.fs.Snapshot(t.Context(), name+"@tarn.1"))
	ds, versions, _ := h.fs.Peek(name)
	w.cfg.Survey = NewSurvey(h.fs, h.root())
	if look(ds, versions) {
		t.Error("what is there is looked for")
	}
	// Somebody rolled it back, and took another snapshot.
	versions[0].GUID++
	if !look(ds, versions) {
		t.Error("another newest snapshot goes unnoticed")
	}
}
