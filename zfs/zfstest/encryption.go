package zfstest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/zfs"
)

func encryptionTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"without":    testNoEncryption,
		"keys":       testKeys,
		"raw":        testRaw,
		"divergence": testRawDivergence,
	}
}

const secretText = "what nobody without the key may read, in many a block of the stream\n"

// testNoEncryption: an engine that cannot encrypt says so, and makes no plain dataset
// of what was to be encrypted.
func testNoEncryption(t *testing.T, s *suite) {
	if s.caps.Encryption {
		t.Skipf("%s %s encrypts", s.caps.Engine, s.caps.Version)
	}
	if s.caps.Raw {
		t.Skipf("%s %s has the commands, and no host is asked to keep encrypted shares", s.caps.Engine, s.caps.Version)
	}
	file := keyFile(t, "key")
	fails(t, s.Host.Create(t.Context(), s.Source+"/e", encrypted(file), false), zfs.ErrUnsupported)
	_, err := s.Host.Dataset(t.Context(), s.Source+"/e")
	fails(t, err, zfs.ErrNotExist)
	plain, _ := s.create(t, "p")
	fails(t, s.Host.LoadKey(t.Context(), plain, file), zfs.ErrUnsupported)
}

func keyFile(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	ok(t, os.WriteFile(file, random(32), 0o600))
	return file
}

func encrypted(file string) map[string]string {
	return map[string]string{
		zfs.PropCanMount: "noauto", zfs.PropEncryption: "aes-256-gcm", zfs.PropKeyFormat: "raw", zfs.PropKeyLocation: "file://" + file,
	}
}

// secret makes a mounted encrypted filesystem with one snapshot, 1.
func (s *suite) secret(t *testing.T, name string) (dataset, dir, file string) {
	t.Helper()
	s.need(t, s.caps.Encryption, "encryption")
	dataset, file = s.Source+"/"+name, keyFile(t, name)
	ok(t, s.Host.Create(t.Context(), dataset, encrypted(file), false))
	ok(t, s.Host.Mount(t.Context(), dataset))
	dir = s.mountpoint(t, dataset)
	writeFile(t, dir+"/text", []byte(strings.Repeat(secretText, 4000)))
	s.snap(t, dataset+"@1")
	return dataset, dir, file
}

// sendRaw moves one step without the key's help, and looks for text in it.
func (s *suite) sendRaw(t *testing.T, dataset, from, to, target string) {
	t.Helper()
	stream, err := s.Host.Send(t.Context(), zfs.SendRequest{Dataset: dataset, From: from, To: to, Flags: zfs.StreamFlags{Raw: true}})
	ok(t, err)
	all, err := io.ReadAll(stream)
	ok(t, err)
	ok(t, stream.Close())
	if bytes.Contains(all, []byte(secretText[:24])) {
		t.Error("the stream can be read without the key")
	}
	guid := s.version(t, dataset+"@"+to).GUID
	ok(t, s.Host.Receive(t.Context(), zfs.ReceiveRequest{
		Target: target + "@" + to, Expect: guid, Raw: true, Resumable: true, Properties: map[string]string{zfs.PropReadOnly: "on"},
	}, bytes.NewReader(all)))
	if got := s.version(t, target+"@"+to).GUID; got != guid {
		t.Errorf("%s arrived as %v, sent was %v", to, got, guid)
	}
}

// own checks that a dataset is its own encryption root.
func (s *suite) own(t *testing.T, dataset string, loaded bool) {
	t.Helper()
	if d := s.get(t, dataset); !d.Encrypted || d.EncryptionRoot != dataset || d.KeyLoaded != loaded {
		t.Errorf("%s: encrypted %v under %q, key loaded %v, want %v", dataset, d.Encrypted, d.EncryptionRoot, d.KeyLoaded, loaded)
	}
}

// testKeys: which key file helps, and what the others' errors say.
func testKeys(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir, file := s.secret(t, "k")
	s.own(t, ds, true)
	ok(t, s.Host.LoadKey(ctx, ds, file))
	to := s.Target + "/k"
	s.sendRaw(t, ds, "", "1", to)
	s.own(t, to, false)
	fails(t, s.Host.Mount(ctx, to), zfs.ErrKey)
	short := keyFile(t, "short")
	ok(t, os.Truncate(short, 31))
	for name, wrong := range map[string]string{"another": keyFile(t, "another"), "short": short, "missing": file + ".none"} {
		err := s.Host.LoadKey(ctx, to, wrong)
		fails(t, err, zfs.ErrKey)
		if !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s key: the error does not say which file to look at: %v", name, err)
		}
	}
	fails(t, s.Host.LoadKey(ctx, to, "relative"), zfs.ErrInvalid)
	s.own(t, to, false)
	for range 2 {
		ok(t, s.Host.LoadKey(ctx, to, file))
	}
	s.own(t, to, true)
	ok(t, s.Host.Mount(ctx, to))
	sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
}

// testRaw: a target that never sees the key takes everything, and nothing plain.
func testRaw(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir, file := s.secret(t, "r")
	to := s.Target + "/r"
	s.sendRaw(t, ds, "", "1", to)
	writeFile(t, dir+"/more", random(300<<10))
	s.snap(t, ds+"@2")
	// Cut, and resumed from the token.
	req := zfs.SendRequest{Dataset: ds, From: "@1", To: "2", Flags: zfs.StreamFlags{Raw: true}}
	stream, err := s.Host.Send(ctx, req)
	ok(t, err)
	fails(t, s.Host.Receive(ctx, zfs.ReceiveRequest{Target: to + "@2", Raw: true, Resumable: true}, io.LimitReader(stream, 200<<10)), zfs.ErrStreamTruncated)
	_ = stream.Close()
	token := s.get(t, to).ResumeToken
	info, err := s.Host.DecodeToken(ctx, token)
	ok(t, err)
	if !info.Flags.Raw {
		t.Errorf("the token forgot that the stream is raw: %+v", info)
	}
	ok(t, s.tryTransfer(ctx, zfs.SendRequest{ResumeToken: token}, zfs.ReceiveRequest{Target: to + "@2", Raw: true, Resumable: true}))
	s.own(t, to, false)

	// Neither plain where raw is due nor the other way round: the two never mix.
	writeFile(t, dir+"/text", []byte("three"))
	s.snap(t, ds+"@3")
	plain := zfs.SendRequest{Dataset: ds, From: "@2", To: "3"}
	fails(t, s.tryTransfer(ctx, plain, zfs.ReceiveRequest{Target: to + "@3", Raw: true}), zfs.ErrStreamRefused)
	fails(t, s.tryTransfer(ctx, plain, zfs.ReceiveRequest{Target: to + "@3"}), zfs.ErrKey)
	req.From, req.To = "@2", "3"
	fails(t, s.tryTransfer(ctx, req, zfs.ReceiveRequest{Target: to + "@3"}), zfs.ErrStreamRefused)
	s.sendRaw(t, ds, "@2", "3", to)

	// Mounted with the key, it goes on following.
	ok(t, s.Host.LoadKey(ctx, to, file))
	ok(t, s.Host.Mount(ctx, to))
	writeFile(t, dir+"/text", []byte("four"))
	s.snap(t, ds+"@4")
	s.sendRaw(t, ds, "@3", "4", to)
	sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
}

// testRawDivergence: what a host wrote beyond the common history is put aside and the
// rest goes on, all without the key.
func testRawDivergence(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir, file := s.secret(t, "d")
	to, aside := s.Target+"/d", s.Target+"/d-aside"
	s.sendRaw(t, ds, "", "1", to)
	ok(t, s.Host.LoadKey(ctx, to, file))
	ok(t, s.Host.Set(ctx, to, map[string]string{zfs.PropReadOnly: "off"}))
	ok(t, s.Host.Mount(ctx, to))
	writeFile(t, s.mountpoint(t, to)+"/own", []byte("written here alone"))
	ok(t, s.Host.Unmount(ctx, to, false))
	s.snap(t, to+"@own")
	writeFile(t, dir+"/text", []byte("the history goes on"))
	s.snap(t, ds+"@2")

	ok(t, s.Host.Rename(ctx, to, aside))
	ok(t, s.Host.Clone(ctx, aside+"@1", to, map[string]string{zfs.PropReadOnly: "on", zfs.PropCanMount: "noauto"}))
	ok(t, s.Host.Promote(ctx, to))
	if d := s.get(t, to); d.EncryptionRoot != to {
		t.Errorf("after the promotion %s has the key of %q", to, d.EncryptionRoot)
	}
	s.sendRaw(t, ds, "@1", "2", to)
	ok(t, s.Host.LoadKey(ctx, to, file))
	for _, name := range []string{to, aside} {
		ok(t, s.Host.Mount(ctx, name))
	}
	sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
	if got := readFile(t, s.mountpoint(t, aside)+"/own"); string(got) != "written here alone" {
		t.Errorf("put aside was %q", got)
	}
}
