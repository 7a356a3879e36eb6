package zfstest

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"tarn/zfs"
)

func resumeTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"cuts":   testCuts,
		"tokens": testTokens,
		"abort":  testAbort,
	}
}

// testCuts cuts a full stream and an increment every few bytes. Each attempt
// resumes from the token of the one before, and none starts over.
func testCuts(t *testing.T, s *suite) {
	s.need(t, s.caps.Resume, "resumable receive")
	ds, dir := s.sample(t, "cut")
	to := s.Target + "/cut"
	s.cutUntilDone(t, zfs.SendRequest{Dataset: ds, To: "1"}, to+"@1", 61_000)
	s.cutUntilDone(t, zfs.SendRequest{Dataset: ds, From: "@1", To: "2"}, to+"@2", 7_000)
	ok(t, s.Host.Mount(t.Context(), to))
	sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
}

func (s *suite) cutUntilDone(t *testing.T, req zfs.SendRequest, target string, every int64) {
	t.Helper()
	dataset, _, err := zfs.ValidateSnapshot(target)
	ok(t, err)
	first := req
	var had int64
	for cut := every; ; cut += every { // grows, so that it ends even if nothing fits into one piece
		stream, err := s.Host.Send(t.Context(), req)
		ok(t, err)
		err = s.Host.Receive(t.Context(), zfs.ReceiveRequest{Target: target, Resumable: true}, io.LimitReader(stream, cut))
		_ = stream.Close()
		if err == nil {
			break
		}
		fails(t, err, zfs.ErrStreamTruncated)
		if s.Reopen != nil {
			s.Host = s.Reopen(t)
		}
		req, had = s.nextAttempt(t, dataset, first, had)
	}
	if a, b := s.version(t, first.Dataset+"@"+first.To), s.version(t, target); a.GUID != b.GUID {
		t.Errorf("GUID %v became %v", a.GUID, b.GUID)
	}
	if token := s.get(t, dataset).ResumeToken; token != "" {
		t.Errorf("token %s after the end", token)
	}
}

func (s *suite) nextAttempt(t *testing.T, dataset string, first zfs.SendRequest, had int64) (zfs.SendRequest, int64) {
	t.Helper()
	d, err := s.Host.Dataset(t.Context(), dataset)
	if errors.Is(err, zfs.ErrNotExist) || err == nil && d.ResumeToken == "" {
		if had > 0 {
			t.Fatalf("%d bytes were lost", had)
		}
		return first, 0
	}
	ok(t, err)
	info, err := s.Host.DecodeToken(t.Context(), d.ResumeToken)
	ok(t, err)
	want := s.version(t, first.Dataset+"@"+first.To)
	if info.ToGUID != want.GUID || info.ToName != want.FullName() || info.Bytes < had || (info.FromGUID == 0) != (first.From == "") {
		t.Errorf("token %+v, had %d bytes", info, had)
	}
	return zfs.SendRequest{ResumeToken: d.ResumeToken}, info.Bytes
}

// half receives the first half of a stream.
func (s *suite) half(t *testing.T, req zfs.SendRequest, target string) (token string) {
	t.Helper()
	all := s.record(t, req)
	err := s.Host.Receive(t.Context(), zfs.ReceiveRequest{Target: target, Resumable: true}, bytes.NewReader(all[:len(all)*3/4]))
	fails(t, err, zfs.ErrStreamTruncated)
	dataset, _, err := zfs.ValidateSnapshot(target)
	ok(t, err)
	token = s.get(t, dataset).ResumeToken
	if token == "" {
		t.Fatal("no token after three quarters of the stream")
	}
	return token
}

func testTokens(t *testing.T, s *suite) {
	s.need(t, s.caps.Resume, "resumable receive")
	ctx := t.Context()
	ds, _ := s.sample(t, "tok")
	token := s.half(t, zfs.SendRequest{Dataset: ds, To: "1"}, s.Target+"/tok@1")
	for _, bad := range []string{"1", "1-", "x" + token, token[:len(token)-3], token + "A", flip(token)} {
		_, err := s.Host.Send(ctx, zfs.SendRequest{ResumeToken: bad})
		fails(t, err, zfs.ErrTokenInvalid)
		_, err = s.Host.DecodeToken(ctx, bad)
		fails(t, err, zfs.ErrTokenInvalid)
	}
	// A token means the snapshot by its GUID, whatever it is called now.
	ok(t, s.Host.RenameSnapshot(ctx, ds, "1", "one"))
	ok(t, s.Host.RenameSnapshot(ctx, ds, "2", "1"))
	stream, err := s.Host.Send(ctx, zfs.SendRequest{ResumeToken: token})
	ok(t, err)
	ok(t, s.Host.Receive(ctx, zfs.ReceiveRequest{Target: s.Target + "/tok@1", Resumable: true}, stream))
	ok(t, stream.Close())
	if a, b := s.version(t, ds+"@one"), s.version(t, s.Target+"/tok@1"); a.GUID != b.GUID {
		t.Errorf("GUID %v became %v", a.GUID, b.GUID)
	}
	ok(t, s.Host.DestroySnapshots(ctx, ds, "one"))
	_, err = s.Host.Send(ctx, zfs.SendRequest{ResumeToken: token})
	fails(t, err, zfs.ErrTokenInvalid)
}

// flip changes one character in the middle.
func flip(token string) string {
	b := []byte(token)
	if i := len(b) / 2; b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

func testAbort(t *testing.T, s *suite) {
	s.need(t, s.caps.Resume, "resumable receive")
	ctx := t.Context()
	ds, _ := s.sample(t, "ab")
	to := s.Target + "/ab"
	full := zfs.SendRequest{Dataset: ds, To: "1"}
	s.half(t, full, to+"@1")
	fails(t, s.tryTransfer(ctx, full, zfs.ReceiveRequest{Target: to + "@1"}), zfs.ErrResumable)
	ok(t, s.Host.AbortReceive(ctx, to))
	_, err := s.Host.Dataset(ctx, to)
	fails(t, err, zfs.ErrNotExist)
	s.transfer(t, ds, "", "1", to+"@1")
	increment := zfs.SendRequest{Dataset: ds, From: "@1", To: "2"}
	s.half(t, increment, to+"@2")
	fails(t, s.tryTransfer(ctx, increment, zfs.ReceiveRequest{Target: to + "@2"}), zfs.ErrResumable)
	ok(t, s.Host.AbortReceive(ctx, to))
	fails(t, s.Host.AbortReceive(ctx, to), zfs.ErrNotResumable)
	s.transfer(t, ds, "@1", "2", to+"@2")
}
