package stream

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"tarn/zfs"
)

func TestErrorsKeepTheirClass(t *testing.T) {
	for _, c := range classes() {
		err := fmt.Errorf("do something: %w", &zfs.Error{Op: "receive", Object: "p/d@x", Class: c.err, Text: "line one\nline\x7ftwo"})
		wire := encodeError(err)
		if bytes.ContainsAny(wire, "\r\n\x7f") {
			t.Errorf("%s: not fit for a header: %q", c.name, wire)
		}
		back := decodeError(wire)
		if !errors.Is(back, c.err) || !strings.Contains(back.Error(), "p/d@x") {
			t.Errorf("%s became %v", c.name, back)
		}
	}
	var d *DivergedError
	if err := decodeError(encodeError(&DivergedError{Common: 7})); !errors.As(err, &d) || d.Common != 7 {
		t.Errorf("divergence became %v", err)
	}
	if err := decodeError(encodeError(errors.New(strings.Repeat("x", 1<<20)))); !errors.Is(err, ErrUnknown) || len(err.Error()) > maxErrorText+100 {
		t.Errorf("long error: %d bytes", len(err.Error()))
	}
}

func TestDecodersRefuse(t *testing.T) {
	pull := func(s string) error { _, err := decodePull(strings.NewReader(s)); return err }
	step := func(s string) error { _, err := decodeStep(s); return err }
	heads := func(s string) error { _, err := decodeHeadsAnswer(strings.NewReader(s)); return err }
	good := `{"share":"s","source":"a","replica":"b","epoch":1}`
	if err := pull(good); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"unknown field":  pull(`{"share":"s","source":"a","replica":"b","more":1}`),
		"two messages":   pull(good + good),
		"hostile id":     pull(`{"share":"s","source":"a","replica":"../b"}`),
		"no id":          pull(`{"share":"s","source":"a"}`),
		"too many GUIDs": pull(`{"share":"s","source":"a","replica":"b","have":[` + strings.TrimSuffix(strings.Repeat("1,", maxHave+1), ",") + `]}`),
		"too long":       pull(strings.Repeat(" ", maxRequestBody+1)),
		"no target":      step(`{"kind":"full","to":0,"to_name":"x","age_ns":-1}`),
		"hostile name":   step(`{"kind":"full","to":1,"to_name":"a@b","age_ns":-1}`),
		"odd kind":       step(`{"kind":"odd","to":1,"to_name":"a","age_ns":-1}`),
		"negative age":   heads(`{"common_age_ns":-1,"heads":[{"age_ns":-2}]}`),
	} {
		if !errors.Is(err, zfs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodePull(f *testing.F) {
	f.Add([]byte(`{"share":"s","source":"a","replica":"b","epoch":1,"have":[1,2],"token":"t","want":3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePull(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := decodePull(bytes.NewReader(encode(p)))
		if err != nil || string(encode(again)) != string(encode(p)) {
			t.Fatalf("%+v does not survive a round trip: %v", p, err)
		}
	})
}

func FuzzDecodeAnswers(f *testing.F) {
	f.Add([]byte(`{"kind":"full","to":1,"to_name":"a","age_ns":-1}`))
	f.Add([]byte(`{"boot":1,"generation":2,"held_ns":3,"common_age_ns":-1,"heads":[{"replica":"r","guid":1,"age_ns":5}]}`))
	f.Add([]byte(`{"class":"diverged","text":"x","common":4}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := decodeStep(string(data)); err == nil && !s.UpToDate() && (s.To == 0 || zfs.ValidateComponent(s.ToName) != nil) {
			t.Fatalf("accepted %+v", s)
		}
		if a, err := decodeHeadsAnswer(bytes.NewReader(data)); err == nil && (a.Held < 0 || a.CommonAge < -1) {
			t.Fatalf("accepted %+v", a)
		}
		if decodeError(data) == nil {
			t.Fatal("an error became none")
		}
	})
}
