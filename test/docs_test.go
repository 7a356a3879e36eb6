package test

import (
	"encoding"
	"os"
	"reflect"
	"strings"
	"testing"

	"tarn/agent"
	"tarn/cmd/tarn/cli"
	"tarn/controlplane"
)

// Every key of a configuration file stands in docs/config.md, in its own section,
// and the sections name no key that does not exist.
func TestConfigurationIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	for file, cfg := range map[string]any{
		"controlplane.toml": controlplane.Config{}, "agent.toml": agent.Config{}, "client.toml": cli.ClientConfig{},
	} {
		_, section, found := strings.Cut(string(text), "\n## "+file+"\n")
		if !found {
			t.Errorf("no section for %s", file)
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		want := keys(reflect.TypeOf(cfg), "")
		for key := range want {
			if !strings.Contains(section, "\n| `"+key+"` |") {
				t.Errorf("%s: key %s is not documented", file, key)
			}
		}
		for line := range strings.Lines(section) {
			if key, ok := strings.CutPrefix(line, "| `"); ok {
				key, _, _ = strings.Cut(key, "`")
				if !want[key] {
					t.Errorf("%s: documented key %s does not exist", file, key)
				}
			}
		}
	}
}

// keys lists the toml keys of a struct, nested ones with a dot.
func keys(typ reflect.Type, prefix string) map[string]bool {
	out := map[string]bool{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag := f.Tag.Get("toml")
		if tag == "-" || tag == "" {
			continue
		}
		inner := f.Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct || reflect.PointerTo(inner).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			out[prefix+tag] = true
			continue
		}
		for key := range keys(inner, prefix+tag+".") {
			out[key] = true
		}
	}
	return out
}
