package stream

import (
	"context"
	"errors"
	"testing"

	"tarn/agent/stream/memzfs"
	"tarn/zfs"
)

// TestFlags: what the receiver took so far decides, then what the source did, then both.
func TestFlags(t *testing.T) {
	full := zfs.StreamFlags{LargeBlocks: true, Compressed: true}
	for name, c := range map[string]struct {
		can   zfs.StreamFlags
		grant Grant
		req   pullBody
		want  string
		err   error
	}{
		"both can":              {can: full, req: pullBody{Can: "compressed+large-blocks"}, want: "compressed+large-blocks"},
		"the receiver cannot":   {can: full, req: pullBody{Can: "plain"}, want: "plain"},
		"the source cannot":     {req: pullBody{Can: "compressed+large-blocks"}, want: "plain"},
		"a silent receiver":     {can: full, want: "plain"},
		"kept for life":         {can: full, req: pullBody{Can: "compressed+large-blocks", Flags: "plain"}, want: "plain"},
		"kept beats the source": {can: full, grant: Grant{Flags: "plain"}, req: pullBody{Can: "compressed+large-blocks", Flags: "large-blocks"}, want: "large-blocks"},
		"a former owner":        {can: full, grant: Grant{Flags: "large-blocks"}, req: pullBody{Can: "compressed+large-blocks"}, want: "large-blocks"},
		"downgraded source":     {req: pullBody{Can: "large-blocks", Flags: "large-blocks"}, err: zfs.ErrStreamFlags},
		"downgraded receiver":   {can: full, req: pullBody{Can: "plain", Flags: "large-blocks"}, err: zfs.ErrStreamFlags},
		"encrypted":             {can: full, grant: Grant{Raw: true, Flags: "large-blocks"}, req: pullBody{Can: "plain"}, want: "raw"},
		"a damaged mark":        {can: full, grant: Grant{Flags: "fast"}, req: pullBody{Can: "plain"}, err: zfs.ErrInvalid},
	} {
		s := &Server{cfg: Config{Engine: memzfs.New(1, "tank"), Can: func() zfs.StreamFlags { return c.can }}}
		got, err := s.flags(context.Background(), c.grant, c.req)
		if !errors.Is(err, c.err) || err == nil && got.String() != c.want {
			t.Errorf("%s: %v, %v; want %q, %v", name, got, err, c.want, c.err)
		}
	}
}
