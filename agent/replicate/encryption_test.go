package replicate

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

const (
	keyThere   = tarnv1.KeyState_KEY_STATE_AVAILABLE
	keyMissing = tarnv1.KeyState_KEY_STATE_MISSING
	errorKey   = tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_KEY_UNAVAILABLE
	marker     = "a sentence that nobody without the key may read\n"
)

// safe is a pair whose share is encrypted; only the active host has the key.
func safe(t *testing.T) (*cluster, *testHost, *testHost) {
	c := newCluster(t, 2)
	c.encrypted = true
	a, b := c.hosts[0], c.hosts[1]
	a.mem.SetHooks(func(_ int, op, object string) error {
		if op == "create" && object == a.dataset() && a.keys.Check(c.share) != nil {
			t.Error("the dataset is created before its key is there")
		}
		return nil
	}, nil)
	a.lease.set(1)
	a.assign(a.active(1))
	b.assign(b.secondary(1, a))
	a.start()
	b.start()
	c.until("active is writable", func() bool { return a.report().GetWritable() })
	return c, a, b
}

// giveKey is what an operator does: copies the key file from one host to another.
func (h *testHost) giveKey(to *testHost) {
	h.c.t.Helper()
	key, err := os.ReadFile(h.keys.Path(h.c.share))
	h.c.must(err)
	to.putKey(key)
}

func (h *testHost) putKey(key []byte) {
	h.c.t.Helper()
	h.c.must(os.WriteFile(h.keys.Path(h.c.share), key, 0o600))
	h.worker.poke() // instead of waiting for it to look again
}

func (h *testHost) takeKey() {
	h.c.t.Helper()
	h.c.must(os.Remove(h.keys.Path(h.c.share)))
}

// same reports that b has all of a, without reading it.
func same(a, b *testHost) func() bool {
	return func() bool {
		return a.head() != 0 && a.head() == b.head() && a.mem.Lying(a.dataset()) == b.mem.Lying(b.dataset())
	}
}

// A host without the key follows, holds and reports, and sees nothing but noise.
func TestKeylessSecondaryFollows(t *testing.T) {
	c, a, b := safe(t)
	for range 3 {
		a.write(marker)
		c.until("follows without the key", func() bool { return same(a, b)() && b.report().GetLag() != nil && b.report().GetReady() })
	}
	for _, h := range c.hosts {
		if lying := h.mem.Lying(h.dataset()); strings.Contains(lying, marker[:8]) || len(lying) < len(marker) {
			t.Errorf("what lies on host %s is plain or missing", h.id)
		}
	}
	r := b.report()
	if r.GetKeyState() != keyMissing || r.GetKeyFile() != b.keys.Path(c.share) || r.GetError() != nil || r.GetMountpoint() != "" {
		t.Errorf("keyless secondary reports %v", r)
	}
	if _, exported := b.exported(); exported {
		t.Error("keyless secondary is exported")
	}
	if r.GetAppliedAccessRevision() != b.want.GetExports().GetRevision() {
		t.Error("where nothing is reachable every rule is in force")
	}
	if a.report().GetKeyState() != keyThere {
		t.Errorf("active reports key %v", a.report().GetKeyState())
	}
	if _, err := os.Stat(b.keys.Path(c.share)); err == nil {
		t.Error("the key travelled")
	}
	b.putKey(make([]byte, 32))
	c.until("a key that does not fit is told", func() bool {
		e := b.report().GetError()
		return e.GetCode() == errorKey && e.GetRetrying() && b.report().GetKeyState() == keyMissing
	})
	a.write("more")
	c.until("and follows on", same(a, b))
	a.giveKey(b)
	c.until("readable with the key", func() bool {
		readOnly, exported := b.exported()
		return readOnly && exported && b.report().GetKeyState() == keyThere && b.report().GetError() == nil
	})
	a.write("and more")
	c.until("equal", inSync(a, b))
}

// Both ways over promotions, the restarted host waiting for its key in between.
func TestEncryptedPromotionAndRestart(t *testing.T) {
	c, a, b := safe(t)
	a.write(marker)
	a.giveKey(b)
	c.until("in sync", inSync(a, b))
	base := c.demote(a, b, 1)
	a.takeKey()
	a.kill()
	a.mem.UnloadKeys()
	a.start()
	c.activate(b, a, 2, base)
	b.write("written by b\n")
	c.until("old active follows without its key", func() bool { return same(b, a)() && a.report().GetKeyState() == keyMissing })
	b.giveKey(a)
	c.until("in sync again", inSync(b, a))

	b.kill()
	b.mem.UnloadKeys()
	key, err := os.ReadFile(b.keys.Path(c.share))
	c.must(err)
	b.takeKey()
	b.start()
	c.until("restarted without its key it says so and serves nothing", func() bool {
		e := b.report().GetError()
		return e.GetCode() == errorKey && e.GetRetrying() && strings.Contains(e.GetMessage(), b.keys.Path(c.share)) && !b.report().GetWritable()
	})
	if _, exported := b.exported(); exported && b.report().GetMountpoint() != "" {
		t.Error("mounted without a key")
	}
	b.putKey(key)
	c.until("serves as soon as the key is there", func() bool { return b.report().GetWritable() && b.report().GetError() == nil })
	if got, err := b.fs.Read(b.dataset()); err != nil || got != marker+"written by b\n" {
		t.Errorf("reads %q, %v", got, err)
	}
}

// What the share's type says and what the dataset is never differ silently.
func TestEncryptionMisfits(t *testing.T) {
	unsupported := func(c *cluster, h *testHost, what string, want error) {
		c.t.Helper()
		c.until(what, func() bool {
			e := h.report().GetError()
			return e.GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_UNSUPPORTED && strings.Contains(e.GetMessage(), want.Error())
		})
		if h.report().GetWritable() {
			c.t.Errorf("%s: writable", what)
		}
	}
	t.Run("plain dataset", func(t *testing.T) {
		c, a, _ := pair(t)
		c.encrypted = true
		a.assign(a.active(2))
		unsupported(c, a, "refused", errNotEncrypted)
	})
	t.Run("plain type", func(t *testing.T) {
		c, a, _ := safe(t)
		c.encrypted = false
		a.assign(a.active(2))
		unsupported(c, a, "refused", errEncrypted)
	})
	t.Run("no key directory", func(t *testing.T) {
		c := newCluster(t, 1)
		c.encrypted = true
		a := c.hosts[0]
		a.lease.set(1)
		a.assign(a.active(1))
		a.keys = nil
		a.start()
		unsupported(c, a, "refused", errNoKeys)
	})
	t.Run("from a snapshot", func(t *testing.T) {
		c := newCluster(t, 1)
		c.encrypted = true
		a := c.hosts[0]
		as := a.active(1)
		as.CloneSource = &tarnv1.CloneSource{ShareId: "other", SamePool: true}
		a.lease.set(1)
		a.assign(as)
		a.start()
		unsupported(c, a, "refused", errKeyedClone)
	})
	s := state{a: &tarnv1.Assignment{Encrypted: true}}
	s.f.ds = &zfs.Dataset{Name: "tank/tarn/r", Encrypted: true, EncryptionRoot: "tank"}
	if err := s.misfit(); !errors.Is(err, errInherited) {
		t.Errorf("an inherited key: %v", err)
	}
	s.a.Encrypted = false
	if err := s.misfit(); err != nil {
		t.Errorf("a plain share on an encrypted pool: %v", err)
	}
}

// A source that sends plain where raw is due, or the other way, is refused.
func TestPlainStreamIsRefused(t *testing.T) {
	c, a, _ := safe(t)
	a.write(marker)
	c.until("head", func() bool { return a.head() != 0 })
	name := a.snapshots(a.dataset())[0].Name
	if _, err := a.fs.Send(context.Background(), zfs.SendRequest{Dataset: a.dataset(), To: name}); !errors.Is(err, zfs.ErrStreamFlags) {
		t.Errorf("the double sends plain: %v", err)
	}
	raw, err := a.fs.Send(context.Background(), zfs.SendRequest{Dataset: a.dataset(), To: name, Flags: zfs.StreamFlags{Raw: true}})
	c.must(err)
	err = a.fs.Receive(context.Background(), zfs.ReceiveRequest{Target: testRoot + "/x@" + name}, raw)
	if !errors.Is(err, zfs.ErrStreamRefused) {
		t.Errorf("raw into a plain share: %v", err)
	}
}

// What the pool cannot read is told, and not built on; a source goes on serving.
func TestDamageHoldsUpReplication(t *testing.T) {
	c := newCluster(t, 2)
	a, b := c.hosts[0], c.hosts[1]
	hurt := errors.New("pool tank cannot read 1 places")
	var damage atomic.Pointer[error]
	for _, h := range c.hosts {
		h.damage = func(string) error {
			if err := damage.Load(); err != nil {
				return *err
			}
			return nil
		}
	}
	a.lease.set(1)
	a.assign(a.active(1))
	b.assign(b.secondary(1, a))
	a.start()
	b.start()
	c.until("in sync", func() bool { return a.report().GetWritable() && inSync(a, b)() })
	damage.Store(&hurt)
	a.worker.poke()
	b.worker.poke()
	damaged := func(h *testHost) bool {
		e := h.report().GetError()
		return e.GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED && e.GetRetrying()
	}
	c.until("both say so", func() bool { return damaged(a) && damaged(b) })
	if !a.report().GetWritable() {
		t.Error("the source does not serve any more")
	}
	held := b.head()
	a.write("not to be built on what cannot be read")
	c.until("the source has a new head", func() bool { return a.head() != held })
	if b.head() != held || b.report().GetReady() {
		t.Errorf("a damaged copy goes on: ready %v", b.report().GetReady())
	}
	damage.Store(nil)
	a.worker.poke()
	b.worker.poke()
	c.until("healed, it follows again", func() bool { return inSync(a, b)() && b.report().GetError() == nil })
}

// TestEncryptedSharesOnZFS moves encrypted shares both ways, and sets a forked history
// aside, on pools that encrypt.
func TestEncryptedSharesOnZFS(t *testing.T) {
	t.Run("zfs", func(t *testing.T) {
		if !realzfs.Kernel() {
			t.Skip("zfs-fuse cannot encrypt: make test-kernel runs this on the kernel's ZFS")
		}
		for name, test := range map[string]func(*testing.T, maker){
			"planned": plannedPromotionBothWays, "forced": forcedFailoverKeepsDivergentData, "unrelated": nothingInCommonIsPutAside,
		} {
			t.Run(name, func(t *testing.T) { test(t, onSealedPools(t)) })
		}
	})
}
