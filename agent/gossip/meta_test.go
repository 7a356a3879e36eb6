package gossip

import (
	"errors"
	"log/slog"
	"math"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
)

const testHost = "01890a5d-ac96-774b-bcce-b302099a8057"

func longest() Meta {
	return Meta{
		Role: RoleControl, HostID: testHost, Zone: strings.Repeat("z", MaxZone),
		APIAddress: strings.Repeat("a", MaxAddress), StreamAddress: strings.Repeat("s", MaxAddress),
		Capabilities: math.MaxUint64, Pools: math.MaxUint32, Leaving: true,
	}
}

func TestLongestMetaFits(t *testing.T) {
	want := longest()
	b, err := want.encode()
	if err != nil || len(b) > memberlist.MetaMaxSize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if got, err := decodeMeta(b); err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestMetaRefusals(t *testing.T) {
	for name, spoil := range map[string]func(*Meta){
		"zone":   func(m *Meta) { m.Zone += "z" },
		"api":    func(m *Meta) { m.APIAddress += "a" },
		"stream": func(m *Meta) { m.StreamAddress += "s" },
		"role":   func(m *Meta) { m.Role = 0 },
		"host":   func(m *Meta) { m.HostID = strings.ToUpper(m.HostID) },
	} {
		m := longest()
		spoil(&m)
		if _, err := m.encode(); !errors.Is(err, ErrMeta) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	want := Meta{Role: RoleAgent, HostID: testHost}
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, 0x7a, 2, 'h', 'i', 0x78, 1) // field 15, text and number
	if got, err := decodeMeta(b); err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func FuzzDecodeMeta(f *testing.F) {
	if b, err := longest().encode(); err == nil {
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			if !errors.Is(err, ErrMeta) {
				t.Fatalf("error without ErrMeta: %v", err)
			}
			return
		}
		again, err := m.encode()
		if err != nil {
			t.Fatalf("%+v was accepted but cannot be sent: %v", m, err)
		}
		if back, err := decodeMeta(again); err != nil || back != m {
			t.Fatalf("%+v came back as %+v, %v", m, back, err)
		}
	})
}

func TestLogLines(t *testing.T) {
	for line, want := range map[string]struct {
		level slog.Level
		text  string
	}{
		"[ERR] memberlist: x y":   {slog.LevelWarn, "x y"},
		"[WARN] memberlist: a: b": {slog.LevelInfo, "a: b"},
		"[DEBUG] memberlist: d":   {slog.LevelDebug, "d"},
		"bare":                    {slog.LevelDebug, "bare"},
		"[odd":                    {slog.LevelDebug, "[odd"},
	} {
		if level, text := parseLine(line); level != want.level || text != want.text {
			t.Errorf("%q: %s %q", line, level, text)
		}
	}
}
