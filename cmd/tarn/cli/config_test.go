package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoadClientConfig: whatever the file holds, what is accepted names a server and one
// way to say who asks, by an absolute path.
func FuzzLoadClientConfig(f *testing.F) {
	for _, text := range []string{
		"addresses = [\"127.0.0.1:7400\"]\npki = \"pki\"\n",
		"addresses = [\"a:1\", \"b:2\"]\ntoken_file = \"/etc/tarn/token\"\nproject = \"blue\"\n",
		"addresses = []\npki = \"x\"\n",
		"addresses = [\"a:1\"]\npki = \"x\"\ntoken_file = \"y\"\n",
		"addresses = [\"a:1\"]\npki = \"x\"\npassword = \"z\"\n",
		"addresses = 7\n", "[addresses]\n", "\x00",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "client.toml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := LoadClientConfig(path)
		if err != nil {
			return
		}
		if len(cfg.Addresses) == 0 || (cfg.PKI == "") == (cfg.TokenFile == "") {
			t.Errorf("%q passes as %+v", text, cfg)
		}
		for _, p := range []string{cfg.PKI, cfg.TokenFile} {
			if p != "" && !filepath.IsAbs(p) {
				t.Errorf("%q names %q, which depends on where one stands", text, p)
			}
		}
	})
}
