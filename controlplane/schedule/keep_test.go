package schedule

import (
	"strings"
	"testing"
	"time"
)

func TestKeepReachesAgents(t *testing.T) {
	if Keep(map[string]string{"tarn:rpo": "1s"}) != nil {
		t.Error("a type without tarn:keep has a policy")
	}
	got := Keep(map[string]string{specKeep: "1h:all, 24h:1h,claim:autosnap_"})
	if len(got.GetRules()) != 2 || got.GetRules()[0].GetUpTo().AsDuration() != time.Hour || got.GetRules()[0].GetEvery().AsDuration() != 0 ||
		got.GetRules()[1].GetEvery().AsDuration() != time.Hour || len(got.GetClaims()) != 1 {
		t.Errorf("policy %v", got)
	}
	// A share may carry what an older version took: nothing goes then.
	if got := Keep(map[string]string{specKeep: "24h:1h,30d:90m"}); got.GetRules()[0].GetEvery().AsDuration() != 0 || got.GetRules()[0].GetUpTo().AsDuration() != longestAge {
		t.Errorf("unreadable policy became %v", got)
	}
}

// FuzzParseKeep: what is taken is in order, within bounds, and never covers tarn's own names.
func FuzzParseKeep(f *testing.F) {
	for _, s := range []string{"1h:all,24h:1h,30d:1d", "claim:a_,1s:1s", "36500d:1d", "1h:all,1h:all", "-1h:1h", "claim:t,1h:1h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseKeep(s)
		if err != nil {
			return
		}
		last := KeepRule{}
		for _, r := range p.Rules {
			if r.For <= last.For || r.For > longestAge || r.Every < last.Every || last.Every > 0 && r.Every%last.Every != 0 {
				t.Fatalf("%q became %+v", s, p)
			}
			last = r
		}
		for _, c := range p.Claims {
			if len(c) < 2 || strings.HasPrefix(c, "tarn") || strings.HasPrefix("tarn", c) {
				t.Fatalf("%q claims %q", s, c)
			}
		}
	})
}
