package gossip

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	tarnv1 "tarn/proto/tarn/v1"
)

func TestParseKeyring(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, keySize), bytes.Repeat([]byte{2}, keySize)
	line, other := hex.EncodeToString(one)+"\n", base64.StdEncoding.EncodeToString(two)+"\n"
	for name, test := range map[string]struct {
		text   string
		want   int
		number uint64
		phase  Phase
	}{
		"raw":           {string(one), 1, 0, ""},
		"hex":           {line, 1, 0, ""},
		"base64":        {base64.StdEncoding.EncodeToString(one), 1, 0, ""},
		"two":           {line + "\n" + other, 2, 0, ""},
		"comment":       {"# by hand\n" + line, 1, 0, ""},
		"numbered":      {"# tarn ring 6\n" + line, 1, 6, ""},
		"adding":        {"# tarn ring 7 adding\n" + line + other, 2, 7, PhaseAdding},
		"none":          {"\n", 0, 0, ""},
		"short":         {"abcd\n", 0, 0, ""},
		"half right":    {line + "xyz\n", 0, 0, ""},
		"twice":         {line + line, 0, 0, ""},
		"too many":      {line + other + strings.Repeat("a", 64) + "\n" + strings.Repeat("b", 64) + "\n" + strings.Repeat("c", 64) + "\n", 0, 0, ""},
		"odd number":    {"# tarn ring x\n" + line, 0, 0, ""},
		"odd phase":     {"# tarn ring 7 melting\n" + line + other, 0, 0, ""},
		"adding of one": {"# tarn ring 7 adding\n" + line, 0, 0, ""},
	} {
		k, err := ParseKeyring([]byte(test.text))
		if (err == nil) != (test.want > 0) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err == nil && (len(k.Keys) != test.want || !bytes.Equal(k.Keys[0], one) || k.Number != test.number || k.Phase != test.phase) {
			t.Errorf("%s: %d keys, number %d, phase %q", name, len(k.Keys), k.Number, k.Phase)
		}
	}
}

// Who began a rotation stays with the keys over its steps, on the wire and in the file, and
// makes no two key rings differ; what is no such note is a comment.
func TestWhoBeganARotation(t *testing.T) {
	old, fresh := bytes.Repeat([]byte{1}, keySize), bytes.Repeat([]byte{2}, keySize)
	at := time.Date(2026, 3, 4, 5, 6, 7, 8, time.FixedZone("", 3600))
	k, err := (Keyring{Keys: [][]byte{old}}).Begin(fresh)
	if err != nil {
		t.Fatal(err)
	}
	plain := k
	k.Begun = BegunBy("spiffe://c/operator/x\nannn  (ann) \xff", at)
	want := Begun{By: "spiffe://c/operator/x annn (ann)", At: time.Date(2026, 3, 4, 4, 6, 7, 0, time.UTC)}
	for {
		sent, err := KeyringOf(k.Message())
		read, rerr := ParseKeyring(k.Text())
		if err != nil || rerr != nil || k.Begun != want || sent.Begun != want || read.Begun != want || !reflect.DeepEqual(read, k) {
			t.Fatalf("%+v: sent %+v, %v, read %+v, %v", k.Begun, sent.Begun, err, read.Begun, rerr)
		}
		if !bytes.Equal(plain.Digest(), k.Digest()) || k.NewerThan(plain) || plain.NewerThan(k) || !plain.Has(&tarnv1.GossipState{Number: k.Number, Digest: k.Digest()}) {
			t.Error("key rings differ by who began them")
		}
		if k.Phase == PhaseSettled {
			break
		}
		k, plain = k.Next(), plain.Next()
	}
	for _, line := range []string{"", "ann", "2026-03-04T04:06:07Z", "yesterday ann", "9999-12-31T23:59:59-23:00 ann", "0000-01-01T00:00:00+23:00 ann"} {
		text := append([]byte(begunHeader+line+"\n"), plain.Text()...)
		if read, err := ParseKeyring(text); err != nil || read.Begun != (Begun{}) || !reflect.DeepEqual(read.Keys, plain.Keys) {
			t.Errorf("%q: %+v, %v", line, read.Begun, err)
		}
	}
	if by := BegunBy(strings.Repeat("ä", 300), at).By; len(by) > maxBegunBy || !strings.HasPrefix(by, "ää") {
		t.Errorf("%d bytes", len(by))
	}
	if b := BegunBy(" \n", at); b != (Begun{}) {
		t.Errorf("nobody: %+v", b)
	}
}

// understands says if what a encrypts can be read by b.
func understands(a, b Keyring) bool {
	for _, key := range b.Keys {
		if bytes.Equal(key, a.Keys[0]) {
			return true
		}
	}
	return false
}

// Members that are at most one step apart understand each other, in whatever order they
// take the steps; the rotation ends with one key, the new one.
func TestStepsUnderstandEachOther(t *testing.T) {
	old, new := bytes.Repeat([]byte{1}, keySize), bytes.Repeat([]byte{2}, keySize)
	steps := []Keyring{{Keys: [][]byte{old}}}
	next, err := steps[0].Begin(new)
	if err != nil {
		t.Fatal(err)
	}
	for steps = append(steps, next); steps[len(steps)-1].Phase != PhaseSettled; {
		steps = append(steps, steps[len(steps)-1].Next())
	}
	if len(steps) != 4 || len(steps[3].Keys) != 1 || !bytes.Equal(steps[3].Keys[0], new) {
		t.Fatalf("the rotation went over %+v", steps)
	}
	for i, k := range steps {
		if err := k.Check(); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
		if i == 0 {
			continue
		}
		if !k.NewerThan(steps[i-1]) || steps[i-1].NewerThan(k) || !understands(k, steps[i-1]) || !understands(steps[i-1], k) {
			t.Errorf("step %d after the one before: %+v", i, k)
		}
	}
	if again := steps[3].Next(); !reflect.DeepEqual(again, steps[3]) {
		t.Errorf("after the end: %+v", again)
	}
	if _, err := steps[1].Begin(old); !errors.Is(err, ErrKeyring) {
		t.Errorf("a rotation in a rotation: %v", err)
	}
	if _, err := steps[3].Begin(new); !errors.Is(err, ErrKeyring) {
		t.Errorf("the key that is there: %v", err)
	}
}

// Whatever two key rings meet, at most one is the newer, and everybody says the same.
func TestNewerIsAnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) Keyring {
			k := Keyring{Number: rapid.Uint64Range(0, 3).Draw(t, name+"number"), Keys: [][]byte{bytes.Repeat([]byte{rapid.Byte().Draw(t, name)}, keySize)}}
			if k.Number > 0 && rapid.Bool().Draw(t, name+"adding") {
				k.Phase, k.Keys = PhaseAdding, append(k.Keys, bytes.Repeat([]byte{rapid.Byte().Draw(t, name+"new")}, keySize))
			}
			return k
		}
		a, b := draw("a"), draw("b")
		if a.NewerThan(b) && b.NewerThan(a) {
			t.Fatal("both are newer")
		}
		same := bytes.Equal(a.Text(), b.Text())
		if !same && a.Number+b.Number > 0 && !a.NewerThan(b) && !b.NewerThan(a) {
			t.Fatal("neither is newer")
		}
		if a.Check() == nil {
			back, err := ParseKeyring(a.Text())
			if err != nil || !reflect.DeepEqual(a, back) {
				t.Fatalf("read back: %+v, %v", back, err)
			}
		}
	})
}

// A key file keeps what it took, refuses what is older, and says why it could not take.
func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gossip.key")
	missing, err := OpenKeyFile(path)
	if err != nil || len(missing.Keyring().Keys) != 0 {
		t.Fatalf("no file: %v", err)
	}
	one, err := Keyring{Keys: [][]byte{testKey}}.Begin(bytes.Repeat([]byte{9}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	two := one.Next()
	for _, step := range []struct {
		k    Keyring
		want bool
	}{{one, true}, {one, false}, {two, true}, {one, false}, {Keyring{Keys: [][]byte{testKey}}, false}} {
		if taken, err := missing.Take(step.k); err != nil || taken != step.want {
			t.Errorf("take number %d: %v, %v", step.k.Number, taken, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	again, err := OpenKeyFile(path)
	if err != nil || !reflect.DeepEqual(again.Keyring(), two) {
		t.Fatalf("after a restart: %+v, %v", again.Keyring(), err)
	}
	if _, err := again.Take(Keyring{Number: 9, Keys: [][]byte{{1}}}); !errors.Is(err, ErrKeyring) || again.Problem() == nil {
		t.Errorf("rubbish: %v, told %v", err, again.Problem())
	}
	lost := &KeyFile{path: filepath.Join(t.TempDir(), "gone", "gossip.key")}
	if _, err := lost.Take(two); err == nil || lost.Problem() == nil || len(lost.Keyring().Keys) != 0 {
		t.Errorf("no directory: %v", err)
	}
}

// TestRotationOfARing gives the members each step one after the other; at every moment
// they all see each other. Who missed the last steps is out, and nothing else happens.
func TestRotationOfARing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		hosts := ring(t, n, 3)
		late := hosts[2]
		k, err := Keyring{Keys: [][]byte{testKey}}.Begin(bytes.Repeat([]byte{9}, keySize))
		if err != nil {
			t.Fatal(err)
		}
		for ; ; k = k.Next() {
			for _, h := range hosts {
				if k.Phase == PhaseSettled && h == late {
					continue
				}
				if err := h.SetKeys(k.Keys); err != nil {
					t.Fatal(err)
				}
				pass(time.Minute)
				for _, h := range hosts {
					if h.Stats().Alive != 3 {
						t.Fatalf("number %d: %s sees %+v", k.Number, h.addr, h.Stats())
					}
				}
			}
			if k.Phase == PhaseSettled {
				break
			}
		}
		late.stop(t)
		within(t, 5*time.Minute, "the late one is missed", func() bool { return hosts[0].state(late.name()) == StateFailed })
		cfg := late.cfg
		cfg.Transport = n.host(late.addr) // with the key that all others have forgotten
		out := start(t, cfg)
		pass(2 * time.Minute)
		if hosts[0].Stats().Alive != 2 || out.Stats().Alive != 1 {
			t.Errorf("with an old key: %+v, %+v", hosts[0].Stats(), out.Stats())
		}
	})
}

func FuzzParseKeyring(f *testing.F) {
	f.Add([]byte("abcd\n"))
	f.Add(bytes.Repeat([]byte{1}, keySize))
	f.Add([]byte("# tarn ring 3 retiring\n" + hex.EncodeToString(testKey) + "\n" + strings.Repeat("ab", keySize) + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKeyring(text)
		if err != nil {
			return
		}
		if err := k.Check(); err != nil {
			t.Fatal(err)
		}
		back, err := ParseKeyring(k.Text())
		if err != nil || !reflect.DeepEqual(k, back) {
			t.Fatalf("%+v became %+v, %v", k, back, err)
		}
	})
}
