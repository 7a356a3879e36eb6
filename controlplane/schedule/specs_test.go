package schedule

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	tarnv1 "tarn/proto/tarn/v1"
)

func TestMatches(t *testing.T) {
	cases := []struct {
		have, want string
		ok         bool
	}{
		{"true", "True", true},
		{"true", "<is> True", true},
		{"1", "yes", true},
		{"false", "<is> true", false},
		{"ZFS", "zfs", true},
		{"NFS_CIFS", "<in> NFS", true},
		{"NFS", "<in> CIFS", false},
		{"ssd", "<or> hdd <or> ssd", true},
		{"tape", "<or> hdd <or> ssd", false},
		{"10", "= 5", true},
		{"4", "= 5", false},
		{"10", ">= 10", true},
		{"10", "<= 9", false},
		{"10", "== 10.0", true},
		{"10", "!= 10", false},
		{"x", ">= 1", false},
		{"b", "s== b", true},
		{"b", "s!= b", false},
		{"b", "s< c", true},
		{"b", "s>= b", true},
		{"b", "s> b", false},
		{"a,b", "b", true},
		{"a,b", "c", false},
	}
	for _, c := range cases {
		if got := matches(c.have, c.want); got != c.ok {
			t.Errorf("matches(%q, %q) = %v", c.have, c.want, got)
		}
	}
}

func TestMatchedKey(t *testing.T) {
	for key, want := range map[string]string{
		"dedupe": "dedupe", "capabilities:Dedupe": "dedupe", "vendor:x": "", "tarn:rpo": "",
		"availability_zones": "", "replication_type": "", "snapshot_support": "snapshot_support",
	} {
		if got := matchedKey(key); got != want {
			t.Errorf("matchedKey(%q) = %q, want %q", key, got, want)
		}
	}
}

func TestValidateExtraSpecs(t *testing.T) {
	cases := []struct {
		key, value string
		rule       string // "" is valid
	}{
		{"replication_type", "readable", ""},
		{"replication_type", "Readable", "writable, readable or dr"},
		{"snapshot_support", "<is> True", ""},
		{"snapshot_support", "maybe", "boolean"},
		{"availability_zones", "z1, z2", ""},
		{"availability_zones", " , ", "list of zones"},
		{"provisioning:min_share_size", "0", "1 or more"},
		{"provisioning:max_share_size", "12", ""},
		{"provisioning:max_share_size", "1.5", "1 or more"},
		{"tarn:rpo", "10s", ""},
		{"tarn:rpo", "999ms", "from 1s to 24h"},
		{"tarn:rpo", "25h", "from 1s to 24h"},
		{"tarn:rpo", "ten", "from 1s to 24h"},
		{"tarn:rate_limit", "50M", ""},
		{"tarn:rate_limit", "0", ""},
		{"tarn:rate_limit", "-1", "bytes per second"},
		{"tarn:rate_limit", "9223372036854775807G", "bytes per second"},
		{"tarn:rate_limit", "M", "bytes per second"},
		{"tarn:keep", "1h:all,24h:1h,30d:1d", ""},
		{"tarn:keep", "24h:1h,1h:all", "must grow"},
		{"tarn:keep", "1h", "AGE:DISTANCE"},
		{"tarn:squash", "none", ""},
		{"tarn:squash", "root_squash", "none, root or all"},
		{"tarn:rop", "10s", "tarn:auto_failover, tarn:encryption, tarn:fsid_on_loss, tarn:keep, tarn:rate_limit, tarn:rpo, tarn:squash"},
		{"tarn:auto_failover", "30s", "needs replication_type"},
		{"tarn:auto_failover", "on", "from 1s to 24h"},
		{"tarn:auto_failover", "0s", "leave the key out"},
		{"tarn:fsid_on_loss", "keep", ""},
		{"tarn:fsid_on_loss", "break", ""},
		{"tarn:fsid_on_loss", "new", "break or keep"},
		{"tarn:encryption", "on", ""},
		{"tarn:encryption", "aes", "boolean"},
		{"tarn:keep", "24h:1h,30d:90m", "multiple"},
		{"tarn:keep", "24h:1h,claim:autosnap_,claim:zrepl_", ""},
		{"tarn:keep", "claim:autosnap_", "at least one"},
		{"tarn:keep", "24h:1h,claim:ta", "tarn's own"},
		{"tarn:keep", "24h:1h,claim:tarn-user-", "tarn's own"},
		{"tarn:keep", "24h:1h,claim:", "2 to 64"},
		{"tarn:keep", "24h:1h,claim:a/b", "letters, digits"},
		{"tarn:keep", "1h:all,0s:all", "AGE:DISTANCE"},
		{"vendor:thing", "x", ""},
		{"Tarn:Encryption", "true", "tarn:encryption is meant"},
		{"Replication_Type", "readable", "replication_type is meant"},
		{"TARN:crypt", "true", "the keys of tarn are"},
		{"capabilities:SSD", "true", ""},
		{"ssd", "true", ""},
		{"bad key", "x", "1 to 255 letters"},
		{strings.Repeat("k", 256), "x", "1 to 255 letters"},
		{"empty", "", "1 to 255 bytes"},
		{"long", strings.Repeat("v", 256), "1 to 255 bytes"},
	}
	for _, c := range cases {
		v := ValidateExtraSpecs(map[string]string{"driver_handles_share_servers": "false", c.key: c.value})
		switch {
		case c.rule == "" && len(v) > 0:
			t.Errorf("%s=%s: refused: %v", c.key, c.value, v)
		case c.rule != "" && (len(v) != 1 || !strings.Contains(v[0].GetRule(), c.rule)):
			t.Errorf("%s=%s: got %v, want %q", c.key, c.value, v, c.rule)
		}
	}
	if v := ValidateExtraSpecs(nil); len(v) != 1 || v[0].GetField() != "extra_specs.driver_handles_share_servers" {
		t.Errorf("no specs: got %v", v)
	}
}

func TestParseSpecs(t *testing.T) {
	got, err := ParseSpecs(map[string]string{
		"driver_handles_share_servers": "False", "replication_type": "dr", "snapshot_support": "true",
		"availability_zones": "a,b", "provisioning:min_share_size": "2", "tarn:rpo": "10s", "tarn:rate_limit": "2k", "tarn:squash": "all",
		"tarn:keep": "1h:all,1d:1h", "tarn:encryption": "on", "tarn:auto_failover": "30s", "tarn:fsid_on_loss": "keep",
	})
	want := Specs{
		ReplicationType: tarnv1.ReplicationType_REPLICATION_TYPE_DR, SnapshotSupport: true,
		AvailabilityZones: []string{"a", "b"}, MinShareSizeGiB: 2, RPO: 10 * time.Second, RateLimitBytesPerSecond: 2048, Squash: tarnv1.Squash_SQUASH_ALL, Encryption: true,
		Keep:         KeepPolicy{Rules: []KeepRule{{For: time.Hour}, {For: 24 * time.Hour, Every: time.Hour}}},
		AutoFailover: 30 * time.Second, KeepFsidOnLoss: true,
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if d, _ := ParseSpecs(map[string]string{"driver_handles_share_servers": "0"}); d.RPO != time.Minute {
		t.Errorf("default RPO is %v, want one minute", d.RPO)
	}
	v := ValidateExtraSpecs(map[string]string{specDHSS: "false", specEncryption: "on", specFromSnapshot: "true"})
	if len(v) != 1 || v[0].GetField() != "extra_specs."+specEncryption {
		t.Errorf("clones of encrypted shares: got %v", v)
	}
	_, err = ParseSpecs(map[string]string{"provisioning:min_share_size": "9", "provisioning:max_share_size": "3"})
	if err == nil || !strings.Contains(err.Error(), "and 1 more") {
		t.Errorf("got %v, want two violations", err)
	}
}

func FuzzValidateExtraSpecs(f *testing.F) {
	f.Add("tarn:rpo", "10s")
	f.Add("tarn:keep", "1h:all")
	f.Add("tarn:rate_limit", "5G")
	f.Add("\xff", "<is>")
	f.Fuzz(func(t *testing.T, key, value string) {
		specs := map[string]string{specDHSS: "false", key: value}
		parsed, err := ParseSpecs(specs)
		if (err == nil) != (len(ValidateExtraSpecs(specs)) == 0) {
			t.Fatal("ParseSpecs and ValidateExtraSpecs disagree")
		}
		if err == nil && (parsed.RPO < MinRPO || parsed.RPO > MaxRPO || parsed.RateLimitBytesPerSecond < 0) {
			t.Fatalf("out of range: %+v", parsed)
		}
	})
}

// TestEveryKeyIsDocumented reads the document, so that a new key cannot be forgotten.
func TestEveryKeyIsDocumented(t *testing.T) {
	doc := readDoc(t, "../../docs/share-types.md")
	keys := sortedKeys(map[string]string{})
	for key := range (&Specs{}).readers() {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if !strings.Contains(doc, "`"+key+"`") {
			t.Errorf("docs/share-types.md does not describe %s", key)
		}
	}
}
